"""Decoding in processes of their own, which can be ended: a pool of them beside each replica."""
