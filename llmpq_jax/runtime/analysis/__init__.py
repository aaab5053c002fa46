"""Records of finished runs, and comparisons of them with their predictions."""
