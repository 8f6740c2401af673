"""Bounds on log p(x), to be maximised: `objective(model, x) -> (B,)`, in nats per example.

Each is a value object with a sample count. What it returns has the value of the bound itself, whatever surrogate is
differentiated; the one place that turns a bound into a loss is `lit.base.BaseModule.training_step`.
"""

from latentlab.objectives.base import Clock, Objective, TraceObjective
from latentlab.objectives.beta import BetaELBO
from latentlab.objectives.elbo import ELBO, STL, AnalyticELBO
from latentlab.objectives.importance import IWAE, DReG
from latentlab.objectives.reconstruction import Reconstruction
from latentlab.objectives.score import VIMCO, ScoreFunction
from latentlab.objectives.vlb import VLB

__all__ = [
    "ELBO",
    "IWAE",
    "STL",
    "VIMCO",
    "VLB",
    "AnalyticELBO",
    "BetaELBO",
    "Clock",
    "DReG",
    "Objective",
    "Reconstruction",
    "ScoreFunction",
    "TraceObjective",
]
