"""Data: protocols, sources (MNIST and its relatives, static MNIST, digits), loaders in memory."""

from latentlab.batch import Batch
from latentlab.protocols import Continuous, Dequantised, Discrete, Dynamic, Protocol, Static, Threshold

from .digits import Digits
from .loader import EvaluationLoader, TensorLoader, TrainingLoader
from .mnist import TorchvisionData
from .module import ImageData, Images, Splits
from .static import StaticMNIST

__all__ = [
    "Batch",
    "Continuous",
    "Dequantised",
    "Digits",
    "Discrete",
    "Dynamic",
    "EvaluationLoader",
    "ImageData",
    "Images",
    "Protocol",
    "Splits",
    "Static",
    "StaticMNIST",
    "TensorLoader",
    "Threshold",
    "TorchvisionData",
    "TrainingLoader",
]
