"""The bundle: its files, its stamp, and its golden answers."""
