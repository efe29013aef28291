"""Which pool answers a row: the active one, a canary, one that is being rolled out."""
