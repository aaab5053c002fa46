"""Options of the commands: those that several share, and groups with a heading in help."""
