"""Trainable versions of mmpretrain's distilled heads; parameter names, and so checkpoints, are the same."""

from .deit_distilled_head import DeiTDistilledClsHead
from .efficientformer_distilled_head import EfficientFormerDistilledClsHead
from .levit_distilled_head import LeViTDistilledClsHead
from .trainable_heads import TRAINABLE_HEADS, make_heads_trainable

__all__ = [
    'TRAINABLE_HEADS',
    'DeiTDistilledClsHead',
    'EfficientFormerDistilledClsHead',
    'LeViTDistilledClsHead',
    'make_heads_trainable',
]
