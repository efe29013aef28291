"""Finds things by name, by a time range in text, or by a link. Pure."""
