"""The bundle: its files, its stamp, its proof."""
