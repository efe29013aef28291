"""Alerts: the book and the commands they run."""
