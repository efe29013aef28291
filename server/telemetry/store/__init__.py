"""All modules that use SQLite."""
