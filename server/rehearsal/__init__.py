"""Sends a candidate bundle the requests that the active one answered, and judges its answers."""
