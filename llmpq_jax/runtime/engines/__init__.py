"""How stages are driven: all in this process, or (later) one process each."""
