"""Encoded text, pictures and sounds to plain values, within limits."""
