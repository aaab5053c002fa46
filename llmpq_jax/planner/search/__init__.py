"""Branch and bound over subproblems, with bounds by column generation."""
