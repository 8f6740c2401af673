"""Dashboards as code: what a team looks at in W&B, made by `python -m latentlab.dashboards`."""
