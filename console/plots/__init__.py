"""Plots over the shared time axis, and what they are made of."""
