"""Loggers: metrics.csv in every run, and W&B or TensorBoard on request."""
