"""Sweeps: many jobs, each in its own process, with a table at the end.

This package imports nothing: Hydra's plugins import `jobs.naming` at every start.
"""
