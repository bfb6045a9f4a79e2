"""Evaluate a checkpoint: mmpretrain's tools/test.py with all its flags. No teacher is built, fetched, loaded or run.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE] [--tta] [--cfg-options KEY=VALUE ...]
"""

import mmpretrain_tools

import serkd_mm  # noqa: F401  (registers the components, and says so clearly where a package is missing)


def remove_teacher(config) -> None:
    """A distiller without a teacher is its student; test-time augmentation wraps the model in another."""
    model = config.model.get('module', config.model)
    if model.type == 'RelationDistiller':
        model.teacher = None


if __name__ == '__main__':
    mmpretrain_tools.run('test', remove_teacher)
