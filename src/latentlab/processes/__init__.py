"""Places and ranks: the processes of a job on several devices."""
