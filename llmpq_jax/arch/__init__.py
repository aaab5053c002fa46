"""What a checkpoint's config.json says: the model's architecture, tensors and fingerprint."""
