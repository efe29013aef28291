"""The replica process: decodes, collates and computes on one device."""
