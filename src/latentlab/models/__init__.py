"""Models: generative and inference networks joined. No Lightning, no Hydra."""
