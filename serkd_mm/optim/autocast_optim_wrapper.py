from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import autocast
from mmpretrain.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper``, with the forward pass in bfloat16 autocast; on a CPU too.

    mmengine's ``AmpOptimWrapper`` scales the loss, which float16 needs, and refuses to work without a GPU. Bfloat16 has the
    range of float32 and needs no scale. Relations and superpixels are computed in float32 or better in any case.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The context of a training step's forward pass."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
