"""tools/cache_teacher.py: configs of unusual form, names of files, and outputs that cannot be stored."""

import shlex
import subprocess

import pytest
import torch
from builders import REPOSITORY, write_images
from cache_tool import cache_teacher, records_of, save_teacher, train, write_config
from mmengine.config import Config
from mmengine.runner import Runner
from training_variants import unlabeled_config

from serkd_mm.config_errors import ConfigError
from serkd_mm.teacher_cache import CacheError

pytestmark = pytest.mark.usefixtures('runner_scope')

WITH_TEACHER = {'model.teacher.cache': None, 'train_dataloader.dataset.cache': None}
RELATIONS = ('loss_kd', 'loss_rd', 'loss_ra')
NEWER_STYLE = """
from mmengine.config import read_base

with read_base():
    from .relations import *

from mmengine.dataset import DefaultSampler
from mmpretrain.datasets import CustomDataset, RandomResizedCrop
from mmpretrain.models import ClsDataPreprocessor, ImageClassifier, VisionTransformer
from serkd_mm.distillers import RelationDistiller
from serkd_mm.mergers import SuperpixelMerger
from serkd_mm.tokenizers import PatchTokenizer

data_preprocessor.update(type=ClsDataPreprocessor)
model['data_preprocessor'].update(type=ClsDataPreprocessor)
model.update(type=RelationDistiller)
model['teacher']['model'].update(type=ImageClassifier)
model['teacher']['model']['backbone'].update(type=VisionTransformer)
model['views']['superpixels'].update(merger=dict(type=SuperpixelMerger, cell=2), tokenizer=dict(type=PatchTokenizer))
train_dataloader['dataset'].update(type=CustomDataset)
train_dataloader['dataset']['pipeline'][1].update(type=RandomResizedCrop)
train_dataloader['sampler'].update(type=DefaultSampler)
"""


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with images, a teacher and a config."""
    folder = tmp_path_factory.mktemp('configs')
    root = write_images(folder / 'images', per_class=2)
    write_config(folder / 'relations.py', root, save_teacher(folder / 'teacher.pth'), RELATIONS)
    return folder


@pytest.mark.slow
def test_config_that_imports_its_types_trains_from_its_cache(place, tmp_path, monkeypatch):
    text = (place / 'relations.py').read_text()
    # A config of this style imports its modules itself.
    (place / 'newer.py').write_text(NEWER_STYLE)
    (place / 'relations.py').write_text(text.replace('custom_imports', 'imported_above'))
    try:
        cache_teacher(monkeypatch, place / 'newer.py', '--out', tmp_path, '--views', 1)
    finally:
        (place / 'relations.py').write_text(text)
    assert "type='mmpretrain.models.VisionTransformer'" in (tmp_path / 'train.py').read_text()
    no_validation = dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
    train(tmp_path / 'train.py', tmp_path / 'work', **no_validation, **{'train_cfg.max_epochs': 1})
    # A config that names the same types is one of the same teacher and images.
    (tmp_path / 'train.py').unlink()
    cache_teacher(monkeypatch, place / 'relations.py', '--out', tmp_path, '--views', 1)


@pytest.mark.slow
def test_training_without_labels_reads_a_cache(place, tmp_path, monkeypatch):
    pytest.importorskip('timm')
    config = unlabeled_config(place / 'images', tmp_path / 'work', **{'train_cfg.max_epochs': 1})
    config.model.teacher.update(checkpoint=str(place / 'teacher.pth'), allow_random_teacher=False)
    config.val_evaluator = dict(type='KNNAccuracy', k=3)
    config.dump(tmp_path / 'config.py')
    cache_teacher(monkeypatch, tmp_path / 'config.py', '--out', tmp_path / 'out', '--views', 1)
    losses = {}
    for name, changes in {'cached': {}, 'teacher': WITH_TEACHER}.items():
        runner = train(tmp_path / 'out' / 'train.py', tmp_path / name, **changes)
        assert runner.train_dataloader.dataset.augments is not None  # Images are mixed.
        logged = runner.message_hub.log_scalars
        losses[name] = {name: value.data[0] for name, value in logged.items() if name.startswith('train/loss')}
        assert 'val/knn/top1' in logged
        assert list((tmp_path / name).glob('best_knn_top1_epoch_1.pth'))
        assert next(hook for hook in runner.hooks if hasattr(hook, 'rules')).rules == ['greater']
    assert losses['cached'].keys() == {'train/loss', 'train/loss_feat', 'train/loss_rd', 'train/loss_ra'}
    for name, values in losses['cached'].items():
        assert values == pytest.approx(losses['teacher'][name], rel=0.02), name
    config = Config.fromfile(tmp_path / 'out' / 'train.py')
    config.merge_from_dict(
        {'work_dir': str(tmp_path / 'held_out'), 'val_evaluator': dict(_delete_=True, type='DistillationLosses')}
    )
    with pytest.raises(
        ConfigError, match=r'^val_evaluator: DistillationLosses needs the teacher, but model\.teacher\.cache'
    ):
        Runner.from_cfg(config).train()


@pytest.mark.parametrize(
    ('addition', 'cause'),
    [
        ("optim_wrapper = dict(clip_grad=dict(max_norm=float('inf')))", "name 'inf' is not defined"),
        ('from pathlib import Path', "Path=<class 'pathlib.Path'>"),
    ],
)
def test_config_that_could_not_be_written_is_refused_before_the_work(addition, cause, place, tmp_path, monkeypatch):
    (tmp_path / 'config.py').write_text(f"_base_ = '{place}/relations.py'\n{addition}\n")
    with pytest.raises(ConfigError, match=r'config\.py: mmengine writes a value') as error:
        cache_teacher(monkeypatch, tmp_path / 'config.py', '--out', tmp_path / 'cache', '--views', 1)
    assert cause in str(error.value)
    assert not (tmp_path / 'cache').exists()


def test_file_of_the_user_is_not_replaced(place, tmp_path, monkeypatch):
    config = tmp_path / 'train.py'
    config.write_bytes((place / 'relations.py').read_bytes())
    with pytest.raises(CacheError, match=r'train\.py was not written by this tool'):
        cache_teacher(monkeypatch, config, '--out', tmp_path, '--views', 1)
    assert config.read_bytes() == (place / 'relations.py').read_bytes()
    assert list(tmp_path.iterdir()) == [config]


def test_printed_command_can_be_pasted(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = "it's [my] cache [/b]"
    cache_teacher(monkeypatch, place / 'relations.py', '--out', folder, '--views', 1)
    printed = capsys.readouterr().out
    assert f'Teacher cache {folder}' in printed
    command = shlex.split(printed.splitlines()[-1], comments=True)
    assert command == ['python', 'tools/train.py', f'{folder}/train.py']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('layer', 'factor', 'losses', 'message'),
    [
        ('head.fc.weight', 1e7, RELATIONS, r'larger than float16 can hold.*Use --dtype float32'),
        ('backbone.layers.1.ffn.layers.1.weight', 1e38, ('loss_feat', 'loss_kd'), r"teacher's tokens at .* are not finite"),
    ],
)
def test_image_with_outputs_that_cannot_be_stored_is_named(layer, factor, losses, message, place, tmp_path, monkeypatch):
    state = torch.load(place / 'teacher.pth')
    torch.save({**state, layer: factor * state[layer]}, tmp_path / 'teacher.pth')
    config = write_config(tmp_path / 'config.py', place / 'images', tmp_path / 'teacher.pth', losses)
    with pytest.raises(CacheError, match=rf'images/class\d/\d\.jpg.*{message}'):
        cache_teacher(monkeypatch, config, '--out', tmp_path / 'cache', '--views', 1)


@pytest.mark.parametrize(('script', 'first'), [('dist_cache_teacher.sh', []), ('slurm_cache_teacher.sh', ['part', 'job'])])
def test_scripts_accept_a_flag_with_its_value_in_one_word(script, first, place, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHON', 'echo')
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    monkeypatch.setenv('GPUS', '1')
    (tmp_path / 'srun').write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    command = [REPOSITORY / 'tools' / script, *first, place / 'relations.py', '--out=cache']
    printed = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    assert printed.rstrip().endswith(f'{place}/relations.py --out=cache')


@pytest.mark.slow
def test_cache_that_lacks_a_file_is_not_called_complete(place, tmp_path, monkeypatch, capsys):
    config = write_config(tmp_path / 'config.py', place / 'images', place / 'teacher.pth', ('loss_feat', 'loss_kd'))
    cache = tmp_path / 'cache'
    arguments = [config, '--out', cache, '--views', 3]
    cache_teacher(monkeypatch, *arguments)
    whole = records_of(cache)
    # A copy beside a finished shard, a shard that was deleted, and one that was killed before it had its final name.
    shards = [cache / f'view_{view:05d}' / 'shard_00000.bin' for view in range(3)]
    shards[0].with_suffix('.partial').write_bytes(shards[0].read_bytes())
    shards[1].unlink()
    shards[2].rename(shards[2].with_suffix('.partial'))
    for number in (8, 0):
        capsys.readouterr()
        cache_teacher(monkeypatch, *arguments)
        printed = capsys.readouterr().out
        assert f'\n{number} images are missing' in printed
        assert {name: content for name, content in records_of(cache).items() if name.endswith('.bin')} == whole
        shards[2].rename(shards[2].with_suffix('.partial'))
    shards[2].with_suffix('.partial').rename(shards[2])
    (cache / 'basis_0.npz').unlink()
    with pytest.raises(CacheError, match=r'basis_0\.npz, the basis of stored tokens, cannot be read'):
        cache_teacher(monkeypatch, *arguments)
    with pytest.raises(ConfigError, match=r'model\.teacher\.cache=.*: .*basis_0\.npz'):
        train(cache / 'train.py', tmp_path / 'work')
