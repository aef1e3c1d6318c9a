"""Trained predictors: physics extrapolates, learning corrects, and every number comes with how wrong it was.

Arrow tables in, plain dataclasses out. `TARGETS` says what can be predicted, `train` makes a `Predictor` of rows, `answering` asks
several of them about configurations. Training needs LightGBM and scikit-learn; predicting needs numpy, and LightGBM for trees.
"""

from models.learned.predictor import Predictor
from models.learned.subjects import TARGETS, find
from models.learned.training import Trained, train

__all__ = ["TARGETS", "Predictor", "Trained", "find", "train"]
