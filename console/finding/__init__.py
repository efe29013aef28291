"""Finding things: by name, by time in words, by a link. Pure."""
