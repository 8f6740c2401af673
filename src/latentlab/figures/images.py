"""Images on a figure: many images as one grid, white on black, and a grid as a panel without axes."""

import torch
from matplotlib.axes import Axes
from torch import Tensor


def tile(images: Tensor, columns: int, gap: int = 1) -> Tensor:
    """One picture of the images (N, 1, H, W), row by row, with a grey gap between, (H', W')."""
    rows = -(-len(images) // columns)
    height, width = images.shape[-2:]
    picture = torch.full((rows * (height + gap) - gap, columns * (width + gap) - gap), 0.35)
    for index, image in enumerate(images.clamp(0, 1).cpu()):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        picture[top : top + height, left : left + width] = image[0]
    return picture


def show(axes: Axes, picture: Tensor, title: str = "") -> None:
    """Show a picture (H, W) with values in [0, 1], 0 black and 1 white, without ticks."""
    axes.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=10)
