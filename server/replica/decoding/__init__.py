"""Decodes in separate processes that can be ended: a pool of them for each replica."""
