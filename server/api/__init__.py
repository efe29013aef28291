"""gRPC: the listener, the services behind it, and the messages they speak."""
