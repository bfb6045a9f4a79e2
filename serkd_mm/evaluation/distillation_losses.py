from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.registry import METRICS

from .model_outputs import find_output


@METRICS.register_module()
class DistillationLosses(BaseMetric):
    """The weighted losses of the distillation on held-out images, averaged over the images of all ranks.

    It needs no labels. The teacher runs in each validation, so this metric is for ``val_evaluator`` alone;
    ``tools/test.py``, which builds no teacher, leaves it out. ``EvaluationOutputsHook`` of the runtime has the model compute
    the losses.

    The results are ``distillation/loss``, the sum, which ``save_best`` minimizes, and each loss by its name. Losses that
    relate the images of a batch depend on the batch size of the validation.

    Args:
        collect_device: As for mmengine's metrics. Default: 'cpu'.
        prefix: As for mmengine's metrics. Default: None, which is 'distillation'.
    """

    default_prefix = 'distillation'
    model_output = 'distillation_losses'

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the losses of the batch, once for each of its images.

        Args:
            data_batch: Ignored.
            data_samples: The predictions, as dicts.

        Raises:
            ConfigError: The predictions have no losses.
        """
        losses = {name: _mean(value) for name, value in find_output(data_samples[0], self).items()}
        self.results.extend([losses] * len(data_samples))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average over the images.

        Args:
            results: The losses by name of each image's batch.
        """
        means = {name: sum(losses[name] for losses in results) / len(results) for name in results[0]}
        return {'loss': sum(value for name, value in means.items() if 'loss' in name), **means}


def _mean(value: torch.Tensor | Sequence[torch.Tensor]) -> float:
    """A loss or an accuracy as mmengine's ``parse_losses`` reads it: one tensor, or the sum over a list."""
    return sum(part.mean().item() for part in ([value] if isinstance(value, torch.Tensor) else value))
