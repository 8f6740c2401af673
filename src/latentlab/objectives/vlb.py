"""The bound of a diffusion."""

from typing import Any

from torch import Tensor, nn

from latentlab.errors import UserError
from latentlab.models.vdm import DiffusionModel
from latentlab.objectives.base import Objective


class VLB(Objective):
    r"""The variational lower bound of a diffusion, $E[\log p(x|z_0)] - KL(q(z_1|x)\,\|\,p(z_1)) - L_T$.

    Kingma et al. 2021, eq. 11, at one random time for each draw; `model.steps` is T. For T to infinity the bound does
    not depend on the schedule between its end points, and one that learns is given the gradient of its variance:
    see `Diffusion.loss_at`.
    """

    def __call__(self, model: DiffusionModel, x: Any) -> Tensor:
        """The bound for each example, (B,)."""
        return model.terms(x, samples=self.samples)["elbo"]

    def parts(self, model: DiffusionModel, x: Any) -> dict[str, Tensor]:
        """The bound with its terms, each (B,)."""
        return model.terms(x, samples=self.samples)

    def check(self, model: nn.Module) -> None:
        """Refuse a model without a diffusion."""
        if not isinstance(model, DiffusionModel):
            raise UserError(
                f"VLB is the bound of a diffusion, and {type(model).__name__} has none: leave objective to what the "
                "model brings along (objective=analytic_elbo for a VAE), or choose model=vdm"
            )
