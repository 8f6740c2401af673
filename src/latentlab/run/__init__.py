"""A run directory on disk: its file names, and one reader and one writer for each file."""
