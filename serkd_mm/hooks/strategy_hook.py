from collections.abc import Iterator

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch.distributed.fsdp import FullyShardedDataParallel

from ..config_errors import ConfigError


@HOOKS.register_module()
class StrategyHook(Hook):
    """Refuse, before the first iteration, ways to train that would fail later or lose precision silently.

    These are optimizers that update weights in half precision, DeepSpeed, FSDP without :class:`StudentFSDPStrategy`, and
    FSDP of parts of a student that is trained without labels.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Check the wrapped model and its optimizer.

        Raises:
            ConfigError: The run would fail, or would train wrongly.
        """
        strategy = type(getattr(runner, 'strategy', None)).__name__
        if strategy == 'DeepSpeedStrategy':
            raise ConfigError(
                "strategy.type='DeepSpeedStrategy' is not supported: it saves without the hooks that keep checkpoints "
                "plain, finite and safe to load. Use strategy=dict(type='StudentFSDPStrategy')"
            )
        if isinstance(runner.model, FullyShardedDataParallel):
            if strategy != 'StudentFSDPStrategy':
                raise ConfigError(
                    'the model is sharded by FSDP, whose checkpoints would not be plain students. Use '
                    "runner_type='FlexibleRunner' and strategy=dict(type='StudentFSDPStrategy')"
                )
            parts = FullyShardedDataParallel.fsdp_modules(runner.model)
            if getattr(runner.model.module, 'label_free', False) and len(parts) > 1:
                raise ConfigError(
                    'strategy.model_wrapper.auto_wrap_policy shards parts of the student, and FSDP fails for a part whose '
                    'output reaches no loss, as without labels (model.losses.loss_cls=None). Remove it, or train with DDP'
                )
            if any(isinstance(hook, EMAHook) for hook in runner.hooks):
                raise ConfigError(
                    'custom_hooks: EMAHook cannot average weights that FSDP shards. Remove it or train with DDP'
                )
        dtypes = {weight.dtype for weight in _optimized(runner) if weight.dtype in (torch.float16, torch.bfloat16)}
        if dtypes:
            raise ConfigError(
                f'the optimizer updates weights in {dtypes.pop()}, which rounds small updates away. Keep the weights in '
                "float32, and train in mixed precision: --amp, optim_wrapper.type='AutocastOptimWrapper', or "
                "strategy.model_wrapper.mixed_precision=dict(param_dtype='bfloat16') with StudentFSDPStrategy"
            )


def _optimized(runner: Runner) -> Iterator[torch.Tensor]:
    """Yield the weights of the optimizers; there are none before training, for example in a test."""
    wrapper = getattr(runner, 'optim_wrapper', None)
    for group in getattr(wrapper, 'param_groups', ()):
        yield from group['params'] if isinstance(group, dict) else ()
