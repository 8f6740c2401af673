"""The jobs of a sweep, each in its own process."""
