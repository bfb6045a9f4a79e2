"""Killed at any moment, a training leaves a checkpoint that resumes."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from builders import run_python, training_config
from mmengine.fileio import get_file_backend
from mmengine.runner import Runner

import serkd_mm.fileio.atomic_backend as module
from serkd_mm.hooks import SafeCheckpointHook

pytestmark = pytest.mark.usefixtures('runner_scope')


def load(path):
    return torch.load(path, map_location='cpu', weights_only=True)


class Killed(BaseException):
    """What a kill is to a test that goes on."""


def test_a_file_is_what_it_was_until_it_is_written_whole(tmp_path, monkeypatch):
    backend = get_file_backend(backend_args={'backend': 'atomic'})
    backend.put(b'first', tmp_path / 'folder' / 'file')

    def killed(_):
        raise Killed

    monkeypatch.setattr(module.os, 'fsync', killed)
    with pytest.raises(Killed):
        backend.put(b'second', tmp_path / 'folder' / 'file')
    assert backend.get(tmp_path / 'folder' / 'file') == b'first'
    monkeypatch.undo()
    backend.put_text('third', tmp_path / 'folder' / 'file')
    assert [path.name for path in (tmp_path / 'folder').iterdir()] == ['file']
    assert backend.get_text(tmp_path / 'folder' / 'file') == 'third'


def test_old_checkpoints_and_best_ones_go_when_the_next_is_there(image_root, tmp_path, monkeypatch):
    seen = []

    def put(self, obj, filepath):
        seen.append((Path(filepath).name, {path.name for path in tmp_path.glob('*.pth')}))
        original(self, obj, filepath)

    original = module.AtomicBackend.put
    monkeypatch.setattr(module.AtomicBackend, 'put', put)
    changes = {'train_cfg.max_epochs': 4, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    config = training_config(image_root, tmp_path, **changes)
    config.default_hooks.checkpoint.rule = 'less'  # Of a random student either direction improves now and then.
    Runner.from_cfg(config).train()
    there = {name: files for name, files in seen if name.startswith('epoch_')}
    assert all(f'epoch_{epoch}.pth' in there[f'epoch_{epoch + 1}.pth'] for epoch in (1, 2, 3))
    bests = [(name, files) for name, files in seen if name.startswith('best_')]
    assert bests
    for (before, _), (_, files) in pairwise(bests):
        assert before in files
    left = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert left == [bests[-1][0], 'epoch_4.pth']
    assert Path((tmp_path / 'last_checkpoint').read_text()).name == 'epoch_4.pth'


def test_a_backend_of_one_s_own_is_left_alone():
    assert SafeCheckpointHook().backend_args == {'backend': 'atomic'}
    assert SafeCheckpointHook(backend_args={'backend': 'local'}).backend_args == {'backend': 'local'}
    assert SafeCheckpointHook(out_dir='s3://bucket/runs').backend_args is None


@pytest.mark.slow
def test_twenty_kills_do_not_change_what_a_training_ends_with(image_root, tmp_path):
    def train(name, kills):
        config = training_config(image_root, tmp_path / name)
        config.train_cfg.max_epochs = 20
        config.default_hooks.checkpoint.max_keep_ckpts = 1
        config.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
        config.dump(tmp_path / f'{name}.py')
        told = run_python(Path(__file__).with_name('killed_training.py'), f'{name}.py', kills, cwd=tmp_path)
        return json.loads(told.splitlines()[-1]), load(tmp_path / name / 'epoch_20.pth')

    (told, whole), (killed_told, killed) = train('whole', 0), train('killed', 20)
    assert told == {'kills': 0, 'writing': 0, 'status': 0}
    assert (killed_told['kills'], killed_told['status']) == (20, 0)
    assert killed_told['writing'] > 0
    for part in ('state_dict', 'ema_state_dict'):
        assert whole[part].keys() == killed[part].keys()
        assert [name for name, value in whole[part].items() if not torch.equal(value, killed[part][name])] == []
    for index, state in whole['optimizer']['state'].items():
        assert all(torch.equal(value, killed['optimizer']['state'][index][name]) for name, value in state.items())
