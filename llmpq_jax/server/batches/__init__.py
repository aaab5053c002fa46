"""Files of requests that clients upload, and the batches that answer them."""
