"""What the console knows and concludes. No Qt."""
