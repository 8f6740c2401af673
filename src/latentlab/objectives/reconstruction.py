"""What a model without a bound is trained on."""

from typing import Any

from torch import Tensor, nn

from latentlab.errors import UserError
from latentlab.models.base import GenerativeModel
from latentlab.objectives.base import Objective


class Reconstruction(Objective):
    """The score of the reconstruction, log p(x|z(x)), which is no bound on log p(x); for `model=autoencoder`."""

    bound = "reconstruction"

    def __call__(self, model: GenerativeModel, x: Any) -> Tensor:
        """The score of each example, (B,)."""
        return model.terms(x, samples=self.samples)["reconstruction"]

    def check(self, model: nn.Module) -> None:
        """Refuse a model that has a bound, of which this would leave out the KL."""
        if not isinstance(model, GenerativeModel) or model.bounded:
            raise UserError(
                f"Reconstruction is no bound, and {type(model).__name__} has one: leave objective to what the model "
                "brings along (objective=beta_elbo objective.beta=0 leaves the KL of a VAE out of the gradient), "
                "or choose model=autoencoder"
            )
