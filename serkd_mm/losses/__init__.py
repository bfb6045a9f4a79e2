"""Distillation losses: ``loss(student, teacher)`` returns one weighted number; the teacher receives no gradient."""

from .channel_graph_loss import ChannelGraphLoss
from .feature_loss import FeatureL2Loss
from .instance_relation_losses import InstanceAngleLoss, InstanceDistanceLoss
from .logit_losses import HardLabelLoss, LogitKLLoss
from .rrd_loss import RRDLoss
from .token_relation_losses import TokenAngleLoss, TokenDistanceLoss
from .vitkd_losses import ViTKDGenerationLoss, ViTKDMimickingLoss

__all__ = [
    'ChannelGraphLoss',
    'FeatureL2Loss',
    'HardLabelLoss',
    'InstanceAngleLoss',
    'InstanceDistanceLoss',
    'LogitKLLoss',
    'RRDLoss',
    'TokenAngleLoss',
    'TokenDistanceLoss',
    'ViTKDGenerationLoss',
    'ViTKDMimickingLoss',
]
