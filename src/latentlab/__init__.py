"""latentlab: an experiment framework for latent-variable models."""
