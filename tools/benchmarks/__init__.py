"""What is timed: kernels, throughput, and both beside what people use today."""
