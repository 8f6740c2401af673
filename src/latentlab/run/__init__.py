"""A run directory: its file names, readers and writers."""
