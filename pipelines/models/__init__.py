"""The model families behind one protocol, the heads and generation."""
