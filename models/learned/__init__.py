"""Trained predictors: the analytical model extrapolates, learning corrects, and every number comes with how wrong it was.

Arrow tables in, plain dataclasses out. Training needs scikit-learn; predicting needs numpy.
"""

from models.learned.features import METRICS, Metric, with_llm_shapes
from models.learned.first_predictor import Prediction, Predictor, predict
from models.learned.first_training import Trained, train
from models.learned.whatif import WhatIf, what_if

__all__ = [
    "METRICS",
    "Metric",
    "Prediction",
    "Predictor",
    "Trained",
    "WhatIf",
    "predict",
    "train",
    "what_if",
    "with_llm_shapes",
]
