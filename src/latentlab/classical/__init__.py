"""Classical inference in float64: a state, a step, an ELBO. No Lightning, no Hydra."""
