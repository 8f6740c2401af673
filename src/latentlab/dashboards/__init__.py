"""Dashboards as code: `latentlab dashboards` makes workspaces and reports in W&B."""
