"""gRPC: the listener, its services, and their messages."""
