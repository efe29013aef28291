"""Turns the bytes of a request into rows of work, and outcomes into responses."""
