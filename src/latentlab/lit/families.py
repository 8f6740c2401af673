"""The families of models that are trained by gradients."""

from typing import Any

from latentlab.errors import UserError
from latentlab.lit.base import BaseModule
from latentlab.models.conditional import ConditionalVAE


class VAEModule(BaseModule):
    """A VAE: one layer of latents."""


class HierarchicalModule(BaseModule):
    """A hierarchy: several layers of latents, scored layer by layer."""


class AutoencoderModule(BaseModule):
    """An autoencoder, followed by the score of its reconstruction: there is no bound."""


class ConditionalModule(BaseModule):
    """A model of images and their labels."""

    model: ConditionalVAE

    def check(self, data: Any) -> None:
        """Refuse data that the model does not score, or without labels.

        Raises:
            UserError: with the reason and the options that work.
        """
        super().check(data)
        if not data.labelled:
            raise UserError(
                f"{type(self.model).__name__} observes labels, and {data.name} has none: choose another data set, "
                "such as data=binarised_mnist or data=dynamic_mnist, or model=vae"
            )

    def setup(self, stage: str) -> None:
        """Refuse labels that the model does not know.

        Raises:
            UserError: with the number of classes that is needed.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        largest = int(max(data.train.y.max(), data.test.y.max()))
        if largest >= self.model.num_classes:
            raise UserError(
                f"model.num_classes={self.model.num_classes}: {data.name} has labels from 0 to {largest}: "
                f"model.num_classes={largest + 1} has room for them"
            )
