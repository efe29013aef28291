"""Bundles on disk, and how one replaces another."""
