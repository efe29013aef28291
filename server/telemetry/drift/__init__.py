"""Drift, as pure maths over counts: no SQLite, no threads."""
