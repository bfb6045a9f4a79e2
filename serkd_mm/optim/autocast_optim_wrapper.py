from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import autocast
from mmpretrain.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """mmengine's ``OptimWrapper`` with the forward pass in bfloat16 autocast, on GPUs and on CPUs.

    mmengine's ``AmpOptimWrapper`` requires a GPU and scales the loss, as float16 needs. Bfloat16 has the range of float32
    and needs no scaling. Relations and superpixels are always computed in float32 or higher precision.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter the context of a training step's forward pass.

        Args:
            model: The model to train.
        """
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
