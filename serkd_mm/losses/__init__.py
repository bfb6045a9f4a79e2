"""Distillation losses: ``loss(student, teacher)`` returns one weighted number; the teacher receives no gradient."""

from .channel_graph_loss import ChannelGraphLoss
from .decoupled_losses import DKDLoss, NKDLoss
from .dense_logits_loss import DenseLogitsLoss
from .dist_loss import DISTLoss
from .feature_loss import FeatureL2Loss
from .instance_relation_losses import InstanceAngleLoss, InstanceDistanceLoss
from .logit_losses import HardLabelLoss, LogitKLLoss
from .rrd_loss import RRDLoss
from .token_relation_losses import TokenAngleLoss, TokenDistanceLoss
from .vitkd_losses import ViTKDGenerationLoss, ViTKDMimickingLoss

__all__ = [
    'ChannelGraphLoss',
    'DISTLoss',
    'DKDLoss',
    'DenseLogitsLoss',
    'FeatureL2Loss',
    'HardLabelLoss',
    'InstanceAngleLoss',
    'InstanceDistanceLoss',
    'LogitKLLoss',
    'NKDLoss',
    'RRDLoss',
    'TokenAngleLoss',
    'TokenDistanceLoss',
    'ViTKDGenerationLoss',
    'ViTKDMimickingLoss',
]
