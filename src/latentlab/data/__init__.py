"""Data sets in memory: sources of images, their splits and their loaders."""

from .digits import Digits
from .images import ImageData, Images, Splits
from .loader import EvaluationLoader, TrainingLoader
from .mnist import TorchvisionData
from .module import DataModule
from .static import StaticMNIST

__all__ = [
    "DataModule",
    "Digits",
    "EvaluationLoader",
    "ImageData",
    "Images",
    "Splits",
    "StaticMNIST",
    "TorchvisionData",
    "TrainingLoader",
]
