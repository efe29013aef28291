"""Chooses the pool that answers a row: the active one, a canary, or one that is being rolled
out."""
