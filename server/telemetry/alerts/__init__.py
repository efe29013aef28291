"""Alerts: the alert book and the command that runs for each page."""
