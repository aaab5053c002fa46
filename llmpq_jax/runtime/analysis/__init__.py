"""A run that is over: its record, and what it says beside the prediction."""
