"""Bundles on disk, and how one takes the place of another."""
