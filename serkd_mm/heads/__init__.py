"""mmpretrain's distilled heads, made trainable; parameter names are theirs, so checkpoints are too."""

from .deit_distilled_head import DeiTDistilledClsHead
from .efficientformer_distilled_head import EfficientFormerDistilledClsHead
from .levit_distilled_head import LeViTDistilledClsHead

TRAINABLE_HEADS = {
    'DeiTClsHead': 'DeiTDistilledClsHead',
    'EfficientFormerClsHead': 'EfficientFormerDistilledClsHead',
    'LeViTClsHead': 'LeViTDistilledClsHead',
}
"""mmpretrain's heads that refuse to train, by registry name, and what trains in their place."""

__all__ = ['TRAINABLE_HEADS', 'DeiTDistilledClsHead', 'EfficientFormerDistilledClsHead', 'LeViTDistilledClsHead']
