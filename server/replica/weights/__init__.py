"""Keeps one copy of the weights for all replicas of a bundle on a device."""
