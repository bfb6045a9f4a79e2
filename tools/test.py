"""Evaluate a checkpoint: mmpretrain's tools/test.py with all its flags. The teacher is not built, downloaded or run.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE] [--tta] [--cfg-options KEY=VALUE ...]
"""

import sys

import mmpretrain_tools

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.config_errors import ConfigError
from serkd_mm.config_files import type_name
from serkd_mm.fileio.urls import conceal_teacher


def remove_teacher(config) -> None:
    """Remove all teachers, so that the model is the student alone. Test-time augmentation wraps it in ``module``."""
    conceal_teacher(config)  # A URL may also be in a variable of the config.
    model = config.model.get('module', config.model)
    if type_name(model) == 'RelationDistiller':
        model.teacher = model.teachers = None


def remove_held_out_losses(config) -> None:
    """Leave out the metric that needs the teacher.

    Raises:
        ConfigError: There is no other one.
    """
    given = config.get('test_evaluator') or ()
    metrics = given if isinstance(given, (list, tuple)) else [given]
    kept = [metric for metric in metrics if type_name(metric) != 'DistillationLosses']
    if len(kept) == len(metrics):
        return
    if not kept:
        raise ConfigError(
            'test_evaluator: DistillationLosses needs the teacher, and an evaluation runs without it. Set '
            "test_evaluator=dict(type='KNNAccuracy') if the images have labels"
        )
    print('test_evaluator: DistillationLosses is left out, because it needs the teacher', file=sys.stderr, flush=True)
    config.test_evaluator = kept


def adapt(config) -> None:
    """Evaluate the student alone, and no random weights."""
    remove_teacher(config)
    remove_held_out_losses(config)
    config.custom_hooks = [*(config.get('custom_hooks') or ()), {'type': 'CompleteCheckpointHook'}]


if __name__ == '__main__':
    mmpretrain_tools.run('test', adapt)
