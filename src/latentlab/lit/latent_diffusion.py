"""The family of models whose prior is a diffusion."""

from latentlab.lit.diffusion import DiffusionModule
from latentlab.models.latent_vdm import LatentVDM
from latentlab.run.checkpoints import read_checkpoint


class LatentDiffusionModule(DiffusionModule):
    """A VAE with a diffusion as its prior, trained at once or from a VAE that is trained already."""

    model: LatentVDM

    def on_train_start(self) -> None:
        """Take over encoder and decoder, where training starts; a checkpoint of this run holds them later.

        Raises:
            UserError: when model.pretrained cannot be read, or has other networks.
        """
        # Not in `setup`, where Lightning does not know yet whether it resumes.
        if self.model.pretrained is not None and self.trainer.ckpt_path is None:
            state = read_checkpoint(self.model.pretrained, "model.pretrained")["state_dict"]
            inner = {name.removeprefix("model."): value for name, value in state.items()}
            self.model.adopt(inner)
