"""The errors that the FAQ quotes are the real ones."""

import importlib
import importlib.util
import os
import re
import shutil

import pytest
import torch
from builders import REPOSITORY, TEACHER, Command, distiller_config, training_config, write_images
from cache_tool import cache_teacher, save_teacher, train, write_config
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from pages import DOCS, pattern

from serkd_mm.config_errors import ConfigError
from serkd_mm.fileio import AtomicBackend, CheckpointError, DownloadError, WorkDirError, WriteError, processes
from serkd_mm.fileio.run_lock import RunLock
from serkd_mm.fileio.work_dir import find_start
from serkd_mm.hooks import DataError, NonFiniteLossError
from serkd_mm.hooks.complete_checkpoint_hook import load_all_weights
from serkd_mm.model_sources.weights_file import WeightsFile
from serkd_mm.teacher_cache import CacheError

QUOTES = re.findall(r'^> `(.*)`$', (DOCS / 'notes' / 'faq.md').read_text(), re.MULTILINE)
LARGE_GRID = dict(TEACHER, backbone=dict(TEACHER['backbone'], patch_size=4))
MORE_CLASSES = dict(TEACHER, head=dict(TEACHER['head'], num_classes=7))
UNLABELED = dict(loss_cls=None, loss_feat=dict(type='FeatureL2Loss', on='tokens'))
MISTAKES = {
    'checkpoint is missing': dict(teacher__allow_random_teacher=False),
    'there is no such file': dict(teacher__allow_random_teacher=False, teacher__checkpoint='teacher.pth'),
    'has no module': dict(student__taps__patches='backbone.layer[-1]'),
    'grids of different shape': dict(teacher__model=LARGE_GRID),
    'larger than the token grid': dict(views__superpixels__merger__cell=5),
    'PatchTokenizer reads': dict(teacher__taps__patches='backbone.patch_embed.projection'),
    'no loss trains the student': dict(losses__loss_kd=None),
    'without labels': dict(losses=UNLABELED, student__taps=dict(patches='backbone.layers[0]')),
    'loss_kd (LogitKLLoss': dict(teacher__model=MORE_CLASSES),
    "has no 'type'": dict(losses__loss_kdd=dict(loss_weight=2.0)),
}


def quoted(part):
    (quote,) = [quote for quote in QUOTES if part in quote]
    return pattern(quote)


@pytest.mark.parametrize('part', MISTAKES)
def test_quoted_config_errors_are_the_real_ones(part):
    with pytest.raises(ConfigError) as error:
        MODELS.build(distiller_config(**MISTAKES[part]))
    assert re.search(quoted(part), str(error.value)), error.value


def change_a_bit(file):
    torch.save(torch.arange(100.0), file)
    file.write_bytes(file.read_bytes().replace(b'\x80\x3f', b'\x80\x40'))


TEACHER_FILES = {
    'does not match': lambda file: torch.save(dict(list(MODELS.build(TEACHER).state_dict().items())[1:]), file),
    'holds more than weights': lambda file: torch.save(dict(meta=Command(str(file.with_name('trap')))), file),
    'does not have the checksum': change_a_bit,
    'could not be fetched': lambda file: None,
}


def make_mistake(part, config):
    """Make a mistake in the config of a training."""
    if part == 'have no labels':
        config.train_dataloader.dataset.with_label = False
    if part == 'nothing moves it':
        config.model.losses.loss_cls = dict(loss_weight=dict(type='Linear', begin=1.0, end=0.0))
        config.custom_hooks = [hook for hook in config.custom_hooks if hook.type != 'LossScheduleHook']
    if part == 'is not finite':
        config.optim_wrapper.optimizer.lr = 1e30
        config.param_scheduler = []


def raise_error(part, image_root, tmp_path):
    """Make a mistake outside the config's text, which raises the error that is quoted with ``part``."""
    file = tmp_path / 'epoch_1.pth'
    if part in TEACHER_FILES:
        TEACHER_FILES[part](file)
        url = file.as_uri() if part == 'could not be fetched' else str(file)
        MODELS.build(distiller_config(teacher__checkpoint=url, teacher__allow_random_teacher=False)).teacher.load()
    elif part == 'not the published file':
        torch.save({}, file)
        WeightsFile(file.as_uri(), published_hash='0123abcd').fetch()
    elif part == '--resume finds':
        file.write_bytes(b'PK')
        (tmp_path / 'last_checkpoint').write_text(str(file))
        tool = importlib.util.spec_from_file_location('tool', REPOSITORY / 'tools' / 'mmpretrain_tools.py')
        module = importlib.util.module_from_spec(tool)
        tool.loader.exec_module(module)
        module.check_checkpoint(Config(dict(resume=True, work_dir=str(tmp_path))))
    elif part == 'would overwrite':
        file.touch()
        find_start(tmp_path, tmp_path)
    elif part == 'is in use':
        lock = RunLock(tmp_path / 'run.lock')
        lock._record.update(pid=os.getppid(), process=processes._identity(os.getppid()))  # A process that lives.
        lock.acquire(print)
        RunLock(tmp_path / 'run.lock').refuse_if_held()
    elif part == 'could not be written':
        file.touch()
        AtomicBackend().put(b'', file / 'epoch_2.pth')
    elif part == 'holds 0 entries':
        load_all_weights(MODELS.build(TEACHER), {}, repr(str(file)))
    else:
        images_there = shutil.copytree(image_root, tmp_path / 'images')
        if part == 'has the label':
            shutil.copytree(images_there / 'class0', images_there / 'class4')
        elif part == 'Replace the file':
            (images_there / 'class0' / '0.jpg').write_bytes(b'')
        config = training_config(images_there, tmp_path / 'work')
        make_mistake(part, config)
        Runner.from_cfg(config).train()


ERRORS = {
    'does not match': ConfigError,
    'holds more than weights': ConfigError,
    'could not be fetched': ConfigError,
    'not the published file': DownloadError,
    'does not have the checksum': ConfigError,
    '--resume finds': CheckpointError,
    'would overwrite': WorkDirError,
    'is in use': WorkDirError,
    'could not be written': WriteError,
    'holds 0 entries': CheckpointError,
    'has the label': DataError,
    'Replace the file': DataError,
    'have no labels': DataError,
    'is not finite': NonFiniteLossError,
    'nothing moves it': ConfigError,
}


@pytest.mark.usefixtures('runner_scope')
@pytest.mark.parametrize('part', ERRORS)
def test_quoted_file_and_training_errors_are_the_real_ones(part, image_root, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # As the tools do.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    with pytest.raises(ERRORS[part]) as error:
        raise_error(part, image_root, tmp_path)
    assert re.search(quoted(part), str(error.value)), error.value


CACHE_ERRORS = {
    'from other views': (CacheError, {'train_dataloader.dataset.seed': 1}),
    'does not hold': (ConfigError, {'model.losses.loss_feat': dict(type='FeatureL2Loss', on='tokens')}),
    'its checksum differs': (CacheError, {}),
}


@pytest.mark.slow
@pytest.mark.usefixtures('runner_scope')
def test_quoted_errors_of_a_teacher_cache_are_the_real_ones(tmp_path, monkeypatch):
    root, cache = write_images(tmp_path / 'images', per_class=1), tmp_path / 'cache'
    config = write_config(tmp_path / 'config.py', root, save_teacher(tmp_path / 'teacher.pth'), ('loss_kd', 'loss_rd'))
    cache_teacher(monkeypatch, config, '--out', cache, '--views', 1)
    shutil.copy(root / 'class1' / '0.jpg', root / 'class2' / '0.jpg')
    for part, (kind, changes) in CACHE_ERRORS.items():
        with pytest.raises(kind) as error:
            train(cache / 'train.py', tmp_path / 'work', **changes)
        assert re.search(quoted(part), str(error.value)), error.value


def test_every_quoted_error_is_compared():
    parts = [*MISTAKES, *ERRORS, *CACHE_ERRORS]
    assert len(parts) == len(QUOTES)
