from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import STRATEGIES
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..config_errors import ConfigError
from ..distillers.student_checkpoints import strip_prefix_in_wrapper


@STRATEGIES.register_module()
class StudentFSDPStrategy(FSDPStrategy):
    """mmengine's ``FSDPStrategy``, whose checkpoints are plain students, and which resumes on current torch.

    The student and what trains it are sharded over the ranks. The frozen teacher is not: each rank holds it whole, so store
    a large one with ``model.teacher.dtype='bfloat16'``. Gradients are clipped by their norm over all ranks.

    Args:
        model_wrapper: As for ``FSDPStrategy``, for example with ``mixed_precision=dict(param_dtype='bfloat16')``. On a
            machine without an accelerator, the weights stay on the CPU. Default: None.
        kwargs: As for ``FSDPStrategy``. ``state_dict_cfg`` is always 'full': rank 0 writes one file with all weights.

    Raises:
        ConfigError: ``use_orig_params`` is off, or ``state_dict_cfg`` is not 'full'.
    """

    def __init__(self, *, model_wrapper: Mapping | None = None, state_dict_cfg: str = 'full', **kwargs: Any) -> None:
        wrapper = {'type': 'MMFullyShardedDataParallel', **(model_wrapper or {})}
        if not wrapper.get('use_orig_params', True):
            raise ConfigError(
                'strategy.model_wrapper.use_orig_params must be True: flattened parameters have no names, so the '
                'settings of optim_wrapper.paramwise_cfg would not apply'
            )
        if state_dict_cfg != 'full':
            raise ConfigError(
                f"strategy.state_dict_cfg must be 'full', but is {state_dict_cfg!r}: others are parts of weights, "
                'which neither mmpretrain nor the tools can load'
            )
        if get_device() == 'cpu':
            wrapper.setdefault('device_id', 'cpu')
        super().__init__(model_wrapper=wrapper, state_dict_cfg=state_dict_cfg, **kwargs)
        if get_device() == 'cpu':
            # torch moves the gathered state to the CPU instead of copying it. There it stays the buffer that the next
            # state is gathered into: the second moments would be saved as the first ones.
            self.optim_state_dict_config.offload_to_cpu = False

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        wrapper = super()._wrap_model(model)
        strip_prefix_in_wrapper(wrapper, wrapper.module)
        return wrapper

    def build_optim_wrapper(self, optim_wrapper: Any, model: nn.Module | None = None) -> BaseOptimWrapper:
        """Build the optimizer wrapper as ``FSDPStrategy`` does, and clip by the norm over all ranks.

        Shards are 1-D. The whole weights are gathered here, because ``flat_decay_mult`` looks at their shapes.
        """
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            built = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(built, 'clip_func', None) is torch.nn.utils.clip_grad_norm_:
            built.clip_func = partial(_clip_norm_over_ranks, model)
        return built

    def optim_state_dict(self) -> dict:
        """Gather the optimizer's state, and add the base learning rate, which mmengine logs and schedules beside it."""
        state, base = super().optim_state_dict(), self.optim_wrapper.base_param_settings
        return state if base is None else {**state, 'base_param_settings': base}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimizer's state; since torch 2.1, arguments have another order than mmengine passes them in."""
        optimizer, state_dict = self.optim_wrapper.optimizer, dict(state_dict)
        base = state_dict.pop('base_param_settings', None)
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict({**sharded, 'base_param_settings': base} if base is not None else sharded)


def _clip_norm_over_ranks(model: FullyShardedDataParallel, _weights: Any, **settings: Any) -> torch.Tensor:
    return model.clip_grad_norm_(**settings)
