"""How stages are driven and messages carried between them."""
