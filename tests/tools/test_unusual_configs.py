"""The tools accept configs that mmengine accepts: without a checkpoint hook, and with classes as types."""

import runpy

import pytest
from builders import REPOSITORY, distiller_config, training_config
from mmengine.config import Config

from serkd_mm.distillers import RelationDistiller
from serkd_mm.fileio import WorkDirError
from serkd_mm.hooks import WorkDirCheckHook


@pytest.fixture
def tool(monkeypatch):
    """Return the names of a tool."""
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.syspath_prepend(REPOSITORY / 'tools')
    return lambda name: runpy.run_path(str(REPOSITORY / 'tools' / f'{name}.py'))


def test_work_folder_of_a_run_without_checkpoints_is_not_refused(tool, image_root, tmp_path):
    check = tool('train')['check_work_dir']
    (tmp_path / 'epoch_1.pth').touch()
    config = training_config(image_root, tmp_path)
    with pytest.raises(WorkDirError):
        check(config)
    config.default_hooks.checkpoint = None
    check(config)
    config.pop('default_hooks')  # mmengine's own are used, which save checkpoints.
    with pytest.raises(WorkDirError):
        check(config)


def test_types_may_be_classes(tool, tmp_path):
    config = Config(dict(work_dir=str(tmp_path), custom_hooks=[dict(type=WorkDirCheckHook)], model=distiller_config()))
    config.model.type = RelationDistiller
    train = tool('train')
    (tmp_path / 'epoch_1.pth').touch()
    with pytest.raises(WorkDirError):
        train['check_work_dir'](config)
    train['FLAGS'][0].apply(config)
    train['check_work_dir'](config)
    tool('test')['remove_teacher'](config)
    assert config.model.teacher is None
