"""tools/cache_teacher.py: what it stores and writes, and that the trainings are the same ones."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from builders import REPOSITORY, training_config, write_images
from cache_tool import cache_teacher, records_of, run, save_teacher, train, write_config
from mmengine.config import Config
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.config_files import read_config
from serkd_mm.errors import UserError
from serkd_mm.teacher_cache import CacheError, Manifest
from serkd_mm.teacher_cache.record_files import partial_path

pytestmark = pytest.mark.usefixtures('runner_scope')
slow = pytest.mark.slow

TOOLS = REPOSITORY / 'tools'
AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
RELATIONS = ('loss_kd', 'loss_rd', 'loss_ra')
LIVE = {'model.teacher.cache': None, 'train_dataloader.dataset.cache': None}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with images, a teacher, and the configs of a whole SeRKD and of its relations, with Mixup and CutMix."""
    folder = tmp_path_factory.mktemp('cache tool')
    root = write_images(folder / 'images', per_class=3)
    teacher = save_teacher(folder / 'teacher.pth')
    augments = {'model.student.model.train_cfg': AUGMENTS}
    write_config(folder / 'whole.py', root, teacher)
    write_config(folder / 'relations.py', root, teacher, RELATIONS)
    write_config(folder / 'mixed.py', root, teacher, RELATIONS, **augments)
    return folder


@slow
def test_relations_of_49_superpixels_take_2352_bytes(tmp_path, monkeypatch, capsys):
    root = write_images(tmp_path / 'images', per_class=1)
    config = training_config(root, tmp_path / 'work')
    for backbone in (config.model.student.model.backbone, config.model.teacher.model.backbone):
        backbone.update(img_size=224, patch_size=16, arch=dict(backbone.arch, num_layers=1, embed_dims=64))
    config.model.student.model.head.in_channels = config.model.teacher.model.head.in_channels = 64
    config.model.losses.pop('loss_feat')
    config.model.losses.pop('loss_kd')
    config.model.student.model.head.distilled_training = False
    config.train_dataloader.dataset.pipeline[1].scale = 224
    config.dump(tmp_path / 'config.py')
    cache_teacher(monkeypatch, tmp_path / 'config.py', '--out', tmp_path / 'cache', '--views', 3)
    printed = capsys.readouterr().out
    assert re.search(r'loss_\w+, loss_\w+ .* 2,352\s', printed)
    assert '3 views x 4 images x 2,360 bytes = 28.3 kB' in printed
    assert sum(map(len, records_of(tmp_path / 'cache').values())) == 3 * 4 * 2360


@slow
@pytest.mark.parametrize('options', [['--tokens', 'full'], ['--top-k', '2', '--rank', '8']])
def test_options_choose_the_formats(options, place, tmp_path, monkeypatch, capsys):
    cache_teacher(monkeypatch, place / 'whole.py', '--out', tmp_path, '--views', 1, *options)
    formats = [entry.format for entry in Manifest.load(tmp_path).entries]
    printed = capsys.readouterr().out
    if '--rank' in options:
        assert [form['type'] for form in formats] == ['BasisFormat', 'TopKFormat', 'TriangleFormat']
        assert (formats[0]['rank'], formats[1]['k']) == (8, 2)
        assert f'loses {formats[0]["relative_error"]:.2g} of the variance' in printed
        assert 0 < formats[0]['relative_error'] < 1
    else:
        assert [(form['type'], form['shape']) for form in formats[:2]] == [('DenseFormat', [16, 24]), ('DenseFormat', [4])]
        assert 'variance' not in printed
    assert f'python tools/train.py {tmp_path}/train.py' in printed


@slow
def test_training_from_a_cache_is_the_live_training(place, tmp_path, monkeypatch):
    cache = tmp_path / 'cache'
    cache_teacher(monkeypatch, place / 'mixed.py', '--out', cache, '--views', 2, '--dtype', 'float32')
    written = Config.fromfile(cache / 'train.py')
    assert written.work_dir == 'work_dirs/mixed_cached'
    assert written.train_dataloader.dataset.augments == AUGMENTS
    assert 'train_cfg' not in written.model.student.model
    states = {}
    for name, changes in {'cached': {}, 'live': LIVE}.items():
        runner = train(cache / 'train.py', tmp_path / name, **changes)
        assert (type(runner.model.teacher).__name__ == 'CachedTeacher') == (name == 'cached')
        states[name] = runner.model.state_dict()
    assert states['cached'].keys() == states['live'].keys()
    for name, value in states['live'].items():
        torch.testing.assert_close(states['cached'][name], value, rtol=1e-4, atol=1e-5, msg=name)


@slow
def test_one_cache_serves_several_configs(place, tmp_path, monkeypatch, capsys):
    configs = [place / 'relations.py', place / 'whole.py']
    cache_teacher(monkeypatch, *configs, '--out', tmp_path, '--views', 2)
    written = records_of(tmp_path)
    assert sorted(path.name for path in tmp_path.glob('*.py')) == ['relations.py', 'whole.py']
    assert Config.fromfile(tmp_path / 'relations.py').work_dir == 'work_dirs/relations_cached'
    assert len(Manifest.load(tmp_path).entries) == 3
    capsys.readouterr()
    # The same again, in another order, and one of them: the cache stays, and the configs are written.
    for again in (configs[::-1], configs[:1]):
        for path in tmp_path.glob('*.py'):
            path.unlink()
        cache_teacher(monkeypatch, *again, '--out', tmp_path, '--views', 2)
        assert f'{tmp_path} is complete\n' in capsys.readouterr().out
        assert len(list(tmp_path.glob('*.py'))) == len(again)
    cache_teacher(monkeypatch, *configs[::-1], '--out', tmp_path, '--views', 2, '--check', 5)
    printed = capsys.readouterr().out
    assert 'tokens of backbone.layers[-1]: largest relative difference' in printed
    assert '5 records of' in printed
    assert records_of(tmp_path) == written
    train(tmp_path / 'train.py', tmp_path / 'work', **{'train_cfg.max_epochs': 1})


@slow
def test_name_of_two_taps_must_be_set_to_one_of_them(place, tmp_path, monkeypatch):
    layer = {'model.teacher.taps.patches': 'backbone.layers[0]'}
    write_config(tmp_path / 'early.py', place / 'images', place / 'teacher.pth', RELATIONS, **layer)
    cache_teacher(monkeypatch, place / 'relations.py', tmp_path / 'early.py', '--out', tmp_path / 'cache', '--views', 1)
    assert Manifest.load(tmp_path / 'cache').taps == {'logits': 'head'}
    written = Config.fromfile(tmp_path / 'cache' / 'early.py').model
    assert written.teacher.taps.patches == 'backbone.layers[0]'
    written.teacher.pop('taps')
    with pytest.raises(ConfigError, match=r"taps has no 'patches'.*Set it to one of .*'backbone\.layers\[-1\]'"):
        MODELS.build(written)


@slow
def test_unfinished_cache_is_continued(place, tmp_path, monkeypatch, capsys):
    arguments = [place / 'whole.py', place / 'relations.py', '--out', tmp_path, '--views', 2]
    cache_teacher(monkeypatch, *arguments)
    written = records_of(tmp_path)
    manifest = (tmp_path / 'manifest.json').read_bytes()
    (tmp_path / 'manifest.json').write_bytes(manifest.replace(b'"complete": true', b'"complete": false'))
    last = tmp_path / 'view_00001' / 'shard_00000.bin'
    partial_path(tmp_path, 1, 0).write_bytes(last.read_bytes()[:1000])
    last.unlink()
    with pytest.raises(UserError, match='is not complete: making it was interrupted'):
        train(tmp_path / 'whole.py', tmp_path / 'work')
    with pytest.raises(CacheError, match=r'more outputs than these configs read. Name all configs'):
        cache_teacher(monkeypatch, place / 'relations.py', *arguments[2:])
    capsys.readouterr()
    cache_teacher(monkeypatch, *arguments)
    assert '10 images are missing' in capsys.readouterr().out
    assert records_of(tmp_path) == written
    assert (tmp_path / 'manifest.json').read_bytes() == manifest


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'train_dataloader.dataset.pipeline': [dict(type='LoadImageFromFile'), dict(type='PackInputs')]},
            r'relations\.py and .*other\.py cannot share a cache, .* train_dataloader\.dataset\.dataset\.pipeline\[1\]',
        ),
        (
            {'model.teacher.autocast_dtype': 'bfloat16'},
            r"differ in model\.teacher: model\.teacher\.autocast_dtype was None and is 'bfloat16'",
        ),
        ({'model.student.model.train_cfg': AUGMENTS}, r'train_dataloader\.dataset\.augments'),
        ({'train_dataloader.sampler.type': 'InfiniteSampler'}, r'train_dataloader\.sampler\.type was .DefaultSampler'),
    ],
    ids=['pipeline', 'teacher', 'augments', 'sampler'],
)
def test_configs_that_cannot_share_a_cache_are_named(changes, message, place, tmp_path, monkeypatch):
    write_config(tmp_path / 'other.py', place / 'images', place / 'teacher.pth', RELATIONS, **changes)
    with pytest.raises(CacheError, match=message):
        cache_teacher(monkeypatch, place / 'relations.py', tmp_path / 'other.py', '--out', tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'train_dataloader.sampler': dict(_delete_=True, type='RepeatAugSampler')},
            'sampler is RepeatAugSampler: ViewSampler',
        ),
        ({'train_dataloader.batch_sampler': dict(type='X')}, 'train_dataloader.batch_sampler='),
        ({'train_dataloader.num_batch_per_epoch': 2}, 'train_dataloader.num_batch_per_epoch=2'),
        (
            {'model.student.model.train_cfg': dict(augments=[dict(type='ResizeMix', alpha=1.0)])},
            'ResizeMix cannot be repeated for the two images of a pair',
        ),
        ({'model.teacher': None}, 'only a RelationDistiller with a teacher'),
        (
            {'train_dataloader.batch_size': 3, 'model.student.model.train_cfg': AUGMENTS},
            'train_dataloader.batch_size=3 must be even',
        ),
        ({'model.data_preprocessor.type': 'SelfSupDataPreprocessor'}, 'replaces|needs.*ClsDataPreprocessor only'),
    ],
    ids=['sampler', 'batch sampler', 'batches per epoch', 'batch augment', 'no teacher', 'odd batch', 'preprocessor'],
)
def test_trainings_without_repeatable_batches_are_refused(changes, message, place, tmp_path, monkeypatch):
    write_config(tmp_path / 'other.py', place / 'images', place / 'teacher.pth', RELATIONS, **changes)
    with pytest.raises((CacheError, ConfigError), match=message):
        cache_teacher(monkeypatch, tmp_path / 'other.py', '--out', tmp_path / 'cache')
    assert not (tmp_path / 'cache').exists()


def test_two_configs_of_one_name_are_refused(place, tmp_path, monkeypatch):
    write_config(tmp_path / 'whole.py', place / 'images', place / 'teacher.pth')
    with pytest.raises(CacheError, match='have the same name'):
        cache_teacher(monkeypatch, place / 'whole.py', tmp_path / 'whole.py', '--out', tmp_path / 'cache')


def test_written_config_is_no_source_of_another_cache(place, tmp_path, monkeypatch):
    cache_teacher(monkeypatch, place / 'relations.py', '--out', tmp_path, '--views', 1)
    with pytest.raises(ConfigError, match='reads a teacher cache already'):
        cache_teacher(monkeypatch, tmp_path / 'train.py', '--out', tmp_path / 'other')


def test_cache_that_does_not_fit_is_refused_before_it_is_begun(place, tmp_path, monkeypatch):
    with pytest.raises(CacheError, match=r'GB are to be written, and the disk has .*B left'):
        cache_teacher(monkeypatch, place / 'relations.py', '--out', tmp_path / 'cache', '--views', 10**11)
    assert not list((tmp_path / 'cache').glob('*'))


@pytest.fixture(scope='module')
def many(tmp_path_factory):
    """A folder with 160 images and a config, whose cache of 20 views is written for some seconds."""
    folder = tmp_path_factory.mktemp('many images')
    root = write_images(folder / 'images', per_class=40)
    augments = {'model.student.model.train_cfg': AUGMENTS}
    write_config(folder / 'config.py', root, save_teacher(folder / 'teacher.pth'), **augments)
    return folder


@slow
def test_killed_cache_is_continued_bit_for_bit(many, tmp_path):
    command = [TOOLS / 'cache_teacher.py', many / 'config.py', '--views', 20, '--out']
    run(sys.executable, *command, tmp_path / 'whole')
    killed = tmp_path / 'killed'
    for view in (3, 9):
        process = start(*command, killed)
        wait_for(killed / f'view_{view:05d}', process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / 'view_00019').exists()
        assert '"complete": false' in (killed / 'manifest.json').read_text()
    # Two ranks finish it; the size of the shards stays that of one.
    last = [TOOLS / 'dist_cache_teacher.sh', *command[1:], killed]
    assert 'images are missing' in run(*last, GPUS='2')
    for name in ('manifest.json', 'basis_0.npz'):
        assert (killed / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
    assert records_of(killed) == records_of(tmp_path / 'whole')


@slow
def test_second_writer_is_refused(many, tmp_path):
    command = [TOOLS / 'cache_teacher.py', many / 'config.py', '--views', 1000, '--out', tmp_path / 'cache']
    first = start(*command)
    wait_for(tmp_path / 'cache' / 'view_00000', first)
    message = run(sys.executable, *command, succeed=False).splitlines()[-1]
    assert message.startswith(f'error: {tmp_path}/cache is in use by process {first.pid} on ')
    assert 'Two processes would write the same records: choose another --out' in message
    first.kill()
    first.wait()


@slow
def test_scripts_make_a_cache_and_train_and_evaluate_from_it(place, tmp_path):
    cache = tmp_path / 'cache'
    output = run(TOOLS / 'dist_cache_teacher.sh', place / 'mixed.py', '--out', cache, '--views', 2, GPUS='2')
    assert f'{cache} is complete' in output
    assert len(list(cache.glob('view_00000/*.bin'))) == 2
    run(TOOLS / 'dist_train.sh', cache / 'train.py', 2, '--work-dir', tmp_path / 'work')
    output = run(sys.executable, TOOLS / 'test.py', cache / 'train.py', tmp_path / 'work' / 'epoch_2.pth')
    assert 'accuracy/top1' in output


def start(*command):
    """Start the tool in a process of its own."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '-1'}
    return subprocess.Popen([sys.executable, *map(str, command)], env=environment, stdout=subprocess.DEVNULL)


def wait_for(path, process):
    """Wait until a folder exists."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@slow
def test_flags_come_from_the_cache_and_edited_configs_stay(place, tmp_path, monkeypatch, capsys):
    cache = tmp_path / 'cache'
    cache_teacher(monkeypatch, place / 'whole.py', '--out', cache, '--views', 2, '--seed', 3, '--rank', 8, '--top-k', 2)
    cache_teacher(monkeypatch, place / 'whole.py', '--out', cache, '--check', 3)
    assert '3 records of' in capsys.readouterr().out
    written = (cache / 'train.py').read_text()
    cache_teacher(monkeypatch, place / 'whole.py', '--out', cache)
    assert (cache / 'train.py').read_text() == written
    with pytest.raises(CacheError, match='num_views was 2 and is 4'):
        cache_teacher(monkeypatch, place / 'whole.py', '--out', cache, '--views', 4)
    with pytest.raises(CacheError, match=r'train\.py was edited, or was written for another config.*child config'):
        cache_teacher(monkeypatch, place / 'relations.py', '--out', cache)
    (cache / 'train.py').write_text(written + 'randomness = dict(seed=1)\n')
    with pytest.raises(CacheError, match=r'train\.py was edited'):
        cache_teacher(monkeypatch, place / 'whole.py', '--out', cache)
    assert (cache / 'train.py').read_text() != written


@slow
def test_resuming_from_another_cache_is_refused(place, tmp_path, monkeypatch):
    for views in (1, 2):
        cache_teacher(monkeypatch, place / 'relations.py', '--out', tmp_path / f'cache{views}', '--views', views)
    train(tmp_path / 'cache1' / 'train.py', tmp_path / 'work', **{'train_cfg.max_epochs': 1})
    start = {'resume': True, 'load_from': str(tmp_path / 'work' / 'epoch_1.pth')}
    train(tmp_path / 'cache1' / 'train.py', tmp_path / 'work', **start)
    with pytest.raises(UserError, match='was trained with a teacher cache, and this one is with another cache'):
        train(tmp_path / 'cache2' / 'train.py', tmp_path / 'work', **start)
    with pytest.raises(UserError, match='was trained with a teacher cache, and this one is with the teacher itself'):
        train(tmp_path / 'cache1' / 'train.py', tmp_path / 'work', **start, **LIVE)


def test_missing_config_of_an_unfinished_cache_says_what_to_do(tmp_path):
    (tmp_path / 'manifest.json').write_text('{}')
    with pytest.raises(UserError, match=r'train\.py: .* It is written when the cache is complete: run the .* again'):
        read_config(tmp_path / 'train.py')
