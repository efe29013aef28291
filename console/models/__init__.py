"""Rows as Qt item models. They define text and tone of a cell, not how it is painted."""
