"""Data sets in memory: sources of images, their splits and their loaders."""

from latentlab.data.digits import Digits
from latentlab.data.images import ImageData, Images, Splits
from latentlab.data.loader import EvaluationLoader, TrainingLoader
from latentlab.data.mnist import TorchvisionData
from latentlab.data.module import DataModule
from latentlab.data.own import FileData, ImageFiles
from latentlab.data.static import StaticMNIST

__all__ = [
    "DataModule",
    "Digits",
    "EvaluationLoader",
    "FileData",
    "ImageData",
    "ImageFiles",
    "Images",
    "Splits",
    "StaticMNIST",
    "TorchvisionData",
    "TrainingLoader",
]
