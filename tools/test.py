"""Evaluate a checkpoint: mmpretrain's tools/test.py with all its flags. The teacher is not built, downloaded or run.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE] [--tta] [--cfg-options KEY=VALUE ...]
"""

import mmpretrain_tools

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.config_files import type_name
from serkd_mm.fileio.urls import conceal_teacher


def remove_teacher(config) -> None:
    """Remove all teachers, so that the model is the student alone. Test-time augmentation wraps it in ``module``."""
    conceal_teacher(config)  # A URL may also be in a variable of the config.
    model = config.model.get('module', config.model)
    if type_name(model) == 'RelationDistiller':
        model.teacher = model.teachers = None


def adapt(config) -> None:
    """Evaluate the student alone, and no random weights."""
    remove_teacher(config)
    config.custom_hooks = [*(config.get('custom_hooks') or ()), {'type': 'CompleteCheckpointHook'}]


if __name__ == '__main__':
    mmpretrain_tools.run('test', adapt)
