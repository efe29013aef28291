"""gRPC: the listener, the services behind it, and their messages."""
