"""The visible panels. A panel is given boards; it never reads a file, a socket or the cache."""
