"""The launcher of sweeps, where Hydra looks for plugins."""
