"""Builds bundles."""
