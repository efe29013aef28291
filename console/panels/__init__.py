"""What is seen. A panel is given boards; it never reads a file, a socket or the cache."""
