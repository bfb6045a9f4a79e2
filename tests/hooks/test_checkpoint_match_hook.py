"""A checkpoint of another model is refused, where mmengine would start from random weights."""

from copy import deepcopy

import pytest
import torch
from builders import TEACHER
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from serkd_mm.fileio import CheckpointError

pytestmark = pytest.mark.usefixtures('runner_scope')


def save(file, prefix='', **backbone):
    """Save the weights of a small vision transformer with changed settings."""
    model = deepcopy(TEACHER)
    model['backbone']['arch'].update(backbone)
    model['head']['in_channels'] = model['backbone']['arch']['embed_dims']
    torch.save({'state_dict': {prefix + name: value for name, value in MODELS.build(model).state_dict().items()}}, file)
    return str(file)


def test_training_does_not_start_from_the_checkpoint_of_another_model(config_of, tmp_path):
    teacher = save(tmp_path / 'teacher.pth', embed_dims=48, num_heads=4)
    with pytest.raises(CheckpointError, match=r'teacher\.pth.*another model.*\(1, 1, 48\) instead of'):
        Runner.from_cfg(config_of(load_from=teacher)).train()
    with pytest.raises(CheckpointError, match='has no weight of this model'):
        Runner.from_cfg(config_of(load_from=save(tmp_path / 'other.pth', prefix='encoder.'))).train()


def test_training_starts_from_a_checkpoint_with_another_head(config_of, tmp_path):
    changes = {'model.head.num_classes': 5, 'data_preprocessor.num_classes': 5}
    Runner.from_cfg(config_of(load_from=save(tmp_path / 'pretrained.pth'), **changes)).train()
