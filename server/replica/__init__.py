"""The other process: decodes, collates and computes on one device."""
