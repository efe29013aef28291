"""The counts and the learned references of each stamp."""
