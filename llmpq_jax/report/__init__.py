"""Tables, timelines and other pictures of records."""
