"""The edge of the command line: overrides, checks, one-line errors, and the course of a training run."""
