"""The family of diffusions."""

from latentlab.lit.base import BaseModule
from latentlab.models.vdm import DiffusionModel


class DiffusionModule(BaseModule):
    """A model with a diffusion, whose terms are logged apart in training too, as `train/kl_diffusion` and so on."""

    model: DiffusionModel
