"""What one worker is: a run of layers, compiled, with its caches, on one mesh."""
