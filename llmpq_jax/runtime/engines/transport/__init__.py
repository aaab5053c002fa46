"""How messages travel between the processes of stages."""
