"""What metrics read of a model besides its predictions."""

from collections.abc import Mapping
from typing import Any

from mmengine.evaluator import BaseMetric

from ..config_errors import ConfigError


def find_output(sample: Mapping[str, Any], metric: BaseMetric) -> Any:
    """Return what a metric reads of a prediction.

    Args:
        sample: The prediction, as a dict.
        metric: The metric; its ``model_output`` names the field.

    Raises:
        ConfigError: The model has not computed it.
    """
    if metric.model_output not in sample:
        raise ConfigError(
            f'{type(metric).__name__}: the predictions contain no {metric.model_output}. Add '
            "dict(type='EvaluationOutputsHook') to custom_hooks, as in configs/_base_/runtime.py, and evaluate without "
            'test-time augmentation'
        )
    return sample[metric.model_output]
