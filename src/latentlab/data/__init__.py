"""Data sets in memory: sources of images, their splits and their loaders."""

from latentlab.data.digits import Digits
from latentlab.data.images import ImageData, Images, Splits
from latentlab.data.loader import EvaluationLoader, TrainingLoader
from latentlab.data.matlab import Caltech101Silhouettes, FreyFaces, Omniglot
from latentlab.data.mnist import TorchvisionData
from latentlab.data.module import DataModule
from latentlab.data.own import FileData, ImageFiles
from latentlab.data.points import Chequerboard, CorrelatedNormal, Moons, PointData, Points, TwoGaussians
from latentlab.data.static import StaticMNIST

__all__ = [
    "Caltech101Silhouettes",
    "Chequerboard",
    "CorrelatedNormal",
    "DataModule",
    "Digits",
    "EvaluationLoader",
    "FileData",
    "FreyFaces",
    "ImageData",
    "ImageFiles",
    "Images",
    "Moons",
    "Omniglot",
    "PointData",
    "Points",
    "Splits",
    "StaticMNIST",
    "TorchvisionData",
    "TrainingLoader",
    "TwoGaussians",
]
