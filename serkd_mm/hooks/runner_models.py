"""The model of a runner, without what wraps it."""

from mmengine.runner import Runner
from torch import nn


def unwrapped_model(runner: Runner) -> nn.Module:
    """Return a runner's model without the wrappers of distributed training and of test-time augmentation."""
    model = runner.model
    while hasattr(model, 'module'):
        model = model.module
    return model
