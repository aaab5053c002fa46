"""Tasks of the commands, one file each; some of them join planning and running."""
