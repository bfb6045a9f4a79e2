"""Distillation losses: ``loss(student, teacher)`` gives one weighted number, and no gradient to the teacher."""

from .feature_loss import FeatureL2Loss
from .logit_loss import LogitKLLoss
from .token_relation_losses import TokenAngleLoss, TokenDistanceLoss

__all__ = ['FeatureL2Loss', 'LogitKLLoss', 'TokenAngleLoss', 'TokenDistanceLoss']
