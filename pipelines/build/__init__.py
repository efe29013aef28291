"""How bundles are made."""
