"""Transport of messages between the processes of stages."""
