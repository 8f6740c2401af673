"""Hydra plugins: the launcher, the sweeper and the resolvers. Hydra imports these modules at every start."""
