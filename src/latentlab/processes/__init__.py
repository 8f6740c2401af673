"""A job on several devices: how many processes it needs, which rank this one is, and how ranks start and end."""
