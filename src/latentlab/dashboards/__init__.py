"""Dashboards as code: `python -m latentlab.dashboards` makes workspaces and reports in W&B."""
