"""A checkpoint of another model is refused, where mmengine would evaluate or train random weights."""

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


def test_checkpoint_of_a_larger_model_is_refused(config_of, tmp_path):
    teacher = save(tmp_path / 'teacher.pth', embed_dims=48, num_heads=4)
    for run in (Runner.test, Runner.train):
        with pytest.raises(CheckpointError, match=r'teacher\.pth.*another model.*\(1, 1, 48\) instead of'):
            run(Runner.from_cfg(config_of(load_from=teacher, work_dir=f'{tmp_path}/work-{run.__name__}')))
    with pytest.raises(CheckpointError, match='has no weight of this model'):
        Runner.from_cfg(config_of(load_from=save(tmp_path / 'other.pth', prefix='encoder.'))).test()


def test_checkpoint_with_another_head_starts_a_training_and_is_not_tested(config_of, tmp_path):
    file = save(tmp_path / 'pretrained.pth')
    changes = {'load_from': file, 'model.head.num_classes': 5, 'data_preprocessor.num_classes': 5}
    Runner.from_cfg(config_of(**changes, **{'val_evaluator.topk': (1,)})).train()
    with pytest.raises(CheckpointError, match=r'head\.fc\.weight'):
        Runner.from_cfg(config_of(**changes)).test()
    Runner.from_cfg(config_of(load_from=file)).test()
