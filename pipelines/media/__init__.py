"""Turns encoded texts, pictures and sounds into plain values, within limits."""
