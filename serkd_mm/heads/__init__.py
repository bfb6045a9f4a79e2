"""mmpretrain's distilled heads, made trainable; parameter names are theirs, so checkpoints are too."""

from .deit_distilled_head import DeiTDistilledClsHead

TRAINABLE_HEADS = {'DeiTClsHead': 'DeiTDistilledClsHead'}
"""mmpretrain's heads that refuse to train, by registry name, and what trains in their place."""

__all__ = ['TRAINABLE_HEADS', 'DeiTDistilledClsHead']
