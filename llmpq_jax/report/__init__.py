"""Records made readable for people: tables, pictures of time and of plans."""
