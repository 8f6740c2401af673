"""Sweeps: many jobs, each in a process of its own, that end in a table and can be taken up again.

Nothing is imported here: Hydra loads its plugins, which name their directories with `naming`, at every start.
"""
