"""Metrics for students that are trained without labels."""

from .distillation_losses import DistillationLosses
from .knn_accuracy import KNNAccuracy

__all__ = ['DistillationLosses', 'KNNAccuracy']
