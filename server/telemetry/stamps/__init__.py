"""What is counted and learned for each stamp."""
