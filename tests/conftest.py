"""Fixtures of all tests."""

import functools
import gc
import logging
import os
from pathlib import Path

import pytest
import torch

# Python imports sitecustomize from there when it starts.
os.environ['PYTHONPATH'] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent / 'startup'), os.environ.get('PYTHONPATH')])
)
if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')  # read on import, when kernels are defined

from builders import write_images
from mmengine.config import config as mmengine_config
from mmengine.config import utils as mmengine_config_utils
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

_MANAGERS = (MessageHub, MMLogger, DefaultScope, Visualizer)


@pytest.fixture(scope='session', autouse=True)
def frozen_imports():
    """Exempt what imports made from garbage collection: mmengine collects for each data set, a third of a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope='session', autouse=True)
def config_text():
    """Leave the text of configs unformatted: each Runner formats it five times, half of the time it takes to start."""
    format_code = mmengine_config.FormatCode
    mmengine_config.FormatCode = lambda text, **_: (text, False)
    yield
    mmengine_config.FormatCode = format_code


@pytest.fixture(scope='session', autouse=True)
def index_of_mmpretrain():
    """Read mmpretrain's index, and look for mmpretrain, once: mmengine does both for each base of a config in mmpretrain."""
    load, is_installed = mmengine_config_utils.load, mmengine_config.is_installed
    mmengine_config_utils.load, mmengine_config.is_installed = functools.cache(load), functools.cache(is_installed)
    yield
    mmengine_config_utils.load, mmengine_config.is_installed = load, is_installed


@pytest.fixture(scope='session')
def image_root(tmp_path_factory):
    """Write a folder of 12 generated images of 4 classes."""
    return write_images(tmp_path_factory.mktemp('images'), per_class=3)


@pytest.fixture
def runner_scope():
    """Restore mmengine's global state afterwards: a Runner registers itself and the default scope by name."""
    before = [dict(manager._instance_dict) for manager in _MANAGERS]
    yield
    for manager, instances in zip(_MANAGERS, before, strict=True):
        manager._instance_dict.clear()
        manager._instance_dict.update(instances)


@pytest.fixture
def logged():
    """Collect the messages of mmengine's current logger."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
