"""Rows as Qt item models. They know what a row says and in which tone, not how it is painted."""
