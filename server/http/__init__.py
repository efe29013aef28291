"""One optional port beside gRPC: HTTP for the same methods, roles, limits and engine."""
