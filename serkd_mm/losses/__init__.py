"""Distillation losses: ``loss(student, teacher)`` gives one weighted number, and no gradient to the teacher."""

from .feature_loss import FeatureL2Loss
from .instance_relation_losses import InstanceAngleLoss, InstanceDistanceLoss
from .logit_losses import HardLabelLoss, LogitKLLoss
from .token_relation_losses import TokenAngleLoss, TokenDistanceLoss

__all__ = [
    'FeatureL2Loss',
    'HardLabelLoss',
    'InstanceAngleLoss',
    'InstanceDistanceLoss',
    'LogitKLLoss',
    'TokenAngleLoss',
    'TokenDistanceLoss',
]
