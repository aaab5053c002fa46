"""Judges how much quality each layer loses at each precision."""
