"""Recipes: how the bundles that ship are made. They are not part of the wheel."""
