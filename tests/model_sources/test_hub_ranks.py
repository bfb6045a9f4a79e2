"""Two ranks whose teacher and student start from a file of the hub; run as a script, this file is one rank."""

import os
import sys
from pathlib import Path

import pytest
import timm
import torch
from builders import distiller_config, leave_ranks, run_ranks
from hugging_face import write_cache
from mmpretrain.registry import MODELS
from safetensors.torch import save_file
from torch import distributed

from serkd_mm.config_errors import ConfigError

pytestmark = pytest.mark.slow
NAMES = ('test_vit', 'test_vit2')


def run_rank(rank, folder):
    """Start a training from the cached file, and from one that is missing; write a weight, or the error."""
    os.environ['LOCAL_RANK'] = str(rank)
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    student = dict(type='TimmClassifier', model_name='test_vit', num_classes=4)
    settings = dict(student__model=student, student__taps=None, losses__loss_kd=None, teacher__taps=None)
    settings.update(student__checkpoint=True, teacher__checkpoint=True, teacher__allow_random_teacher=False)
    grids = dict(views__superpixels__merger=dict(type='SuperpixelMerger', cell=None, grid=2))
    outcomes = []
    for name in NAMES:
        config = distiller_config(**settings, **grids, teacher__model=f'timm:{name}', input_size=(3, 32, 32))
        config['student'].update(model=dict(student, model_name=name))
        try:
            model = MODELS.build(config)
            model.init_weights()
            outcomes.append([model.teacher.model.model.norm.weight, model.student.model.norm.weight])
        except ConfigError as error:
            outcomes.append(str(error))
    torch.save(outcomes, f'{folder}/{rank}.pth')
    leave_ranks()


def test_ranks_read_one_cache_and_fail_together(tmp_path, monkeypatch):
    net = timm.create_model('test_vit')
    torch.nn.init.normal_(net.norm.weight)
    (tmp_path / 'repository').mkdir()
    save_file(net.state_dict(), tmp_path / 'repository' / 'model.safetensors')
    write_cache(tmp_path / 'hub', 'timm/test_vit.r160_in1k', tmp_path / 'repository')
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    run_ranks(__file__, 2, tmp_path)
    for rank in range(2):
        found, missing = torch.load(tmp_path / f'{rank}.pth', weights_only=True)
        assert all(torch.equal(weight, net.norm.weight) for weight in found)
        assert "model.student.checkpoint='timm/test_vit2.r160_in1k/model.safetensors' could not be fetched" in missing
        assert 'HF_HUB_OFFLINE is set' in missing
        assert str(tmp_path / 'hub' / 'models--timm--test_vit2.r160_in1k') in missing


if __name__ == '__main__':
    run_rank(int(sys.argv[2]), Path(sys.argv[1]))
