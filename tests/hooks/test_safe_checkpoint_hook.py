"""A training that is killed at any time leaves a checkpoint that resumes."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from builders import run_python, training_config
from mmengine.runner import Runner

from serkd_mm.config_errors import ConfigError
from serkd_mm.fileio import AtomicBackend
from serkd_mm.hooks import SafeCheckpointHook

pytestmark = pytest.mark.usefixtures('runner_scope')


def load(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def test_old_and_best_checkpoints_are_removed_after_the_next_is_saved(image_root, tmp_path, monkeypatch):
    seen = []

    def put(self, obj, filepath):
        seen.append((Path(filepath).name, {path.name for path in tmp_path.glob('*.pth')}))
        original(self, obj, filepath)

    original = AtomicBackend.put
    monkeypatch.setattr(AtomicBackend, 'put', put)
    changes = {'train_cfg.max_epochs': 4, 'default_hooks.checkpoint.max_keep_ckpts': 1}
    config = training_config(image_root, tmp_path, **changes)
    config.default_hooks.checkpoint.rule = 'less'  # The accuracy of a random student goes up and down.
    Runner.from_cfg(config).train()
    existing = {name: files for name, files in seen if name.startswith('epoch_')}
    assert all(f'epoch_{epoch}.pth' in existing[f'epoch_{epoch + 1}.pth'] for epoch in (1, 2, 3))
    bests = [(name, files) for name, files in seen if name.startswith('best_')]
    assert bests
    for (before, _), (_, files) in pairwise(bests):
        assert before in files
    left = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert left == [bests[-1][0], 'epoch_4.pth']
    assert Path((tmp_path / 'last_checkpoint').read_text()).name == 'epoch_4.pth'


def test_custom_backend_is_kept():
    assert SafeCheckpointHook().backend_args == {'backend': 'atomic'}
    assert SafeCheckpointHook(backend_args={'backend': 'local'}).backend_args == {'backend': 'local'}
    assert SafeCheckpointHook(out_dir='s3://bucket/runs').backend_args is None


def test_saving_by_epoch_in_a_training_by_iterations_is_refused(image_root, tmp_path):
    config = training_config(image_root, tmp_path)
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
    with pytest.raises(ConfigError, match=r'nothing would be saved before the end. Set .*by_epoch=False'):
        Runner.from_cfg(config).train()


def test_unknown_metric_of_the_best_checkpoint_is_named(image_root, tmp_path):
    config = training_config(image_root, tmp_path, **{'default_hooks.checkpoint.save_best': 'accuracy/top'})
    with pytest.raises(ConfigError, match=r"save_best='accuracy/top' is not a metric.*Did you mean 'accuracy/top1'"):
        Runner.from_cfg(config).train()


@pytest.mark.slow
def test_twenty_kills_do_not_change_the_result_of_a_training(image_root, tmp_path):
    def train(name, kills):
        config = training_config(image_root, tmp_path / name)
        config.train_cfg.max_epochs = 20
        config.default_hooks.checkpoint.max_keep_ckpts = 1
        config.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
        config.dump(tmp_path / f'{name}.py')
        printed = run_python(Path(__file__).with_name('killed_training.py'), f'{name}.py', kills, cwd=tmp_path)
        return json.loads(printed.splitlines()[-1]), load(tmp_path / name / 'epoch_20.pth')

    (counts, whole), (killed_counts, killed) = train('whole', 0), train('killed', 20)
    assert counts == {'kills': 0, 'writing': 0, 'status': 0}
    assert (killed_counts['kills'], killed_counts['status']) == (20, 0)
    assert killed_counts['writing'] > 0
    for part in ('state_dict', 'ema_state_dict'):
        assert whole[part].keys() == killed[part].keys()
        assert [name for name, value in whole[part].items() if not torch.equal(value, killed[part][name])] == []
    for index, state in whole['optimizer']['state'].items():
        assert all(torch.equal(value, killed['optimizer']['state'][index][name]) for name, value in state.items())
