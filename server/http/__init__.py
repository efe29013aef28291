"""One optional door beside gRPC: HTTP for the same methods, roles, limits and engine."""
