"""Figures of classical inference. Each is a function of a model and its observations."""
