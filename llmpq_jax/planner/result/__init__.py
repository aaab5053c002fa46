"""From what the search found to a strategy."""
