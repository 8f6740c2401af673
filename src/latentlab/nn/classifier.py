"""The small classifier whose features compare samples with images."""

from torch import Tensor, nn

from latentlab.errors import UserError
from latentlab.nn import Shape

FEATURES = 128


class Classifier(nn.Module):
    """Two convolutions, a maximum over 2 x 2 pixels, and two linear layers: class scores of images.

    Courses on generative models use it for the FID of MNIST. `features` are the outputs of the first linear layer,
    before its ReLU.

    Args:
        x_shape: the shape (C, H, W) of one image, at least 6 x 6.
        num_classes: the number of classes.

    Raises:
        UserError: for smaller images.
    """

    def __init__(self, x_shape: Shape, num_classes: int) -> None:
        super().__init__()
        channels, height, width = x_shape
        if min(height, width) < 6:
            raise UserError(
                f"images of {height} x {width} pixels are too small for the classifier: 6 x 6 or more"
            )
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), FEATURES),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Linear(FEATURES, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """The scores of the classes for images x in [0, 1], (B, C, H, W) to (B, num_classes)."""
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The features of images x in [0, 1], (B, C, H, W) to (B, 128). The network sees pixels in [-1, 1]."""
        return self.body(2 * x - 1)
