"""Alerts: the book, the commands they run, the silences."""
