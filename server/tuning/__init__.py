"""Finds the settings of the pool that serve most on this machine within an objective."""
