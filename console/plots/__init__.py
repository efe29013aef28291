"""Plots over the shared time axis, and their building blocks."""
