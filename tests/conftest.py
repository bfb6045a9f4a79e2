"""Fixtures of all tests."""

import functools
import logging
import os

import pytest
import torch

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
def config_text():
    """Format the text of a config once: each Runner formats the same text five times, half of the time it takes to start."""
    format_code = mmengine_config.FormatCode
    formatted = functools.lru_cache(16)(lambda text, style, more: format_code(text, style_config=dict(style), **dict(more)))

    def format_once(text, style_config, **more):
        return formatted(text, tuple(style_config.items()), tuple(more.items()))

    mmengine_config.FormatCode = format_once
    yield
    mmengine_config.FormatCode = format_code


@pytest.fixture(scope='session', autouse=True)
def index_of_mmpretrain():
    """Read each file of mmpretrain's index once: mmengine parses all of them for each base of a config in mmpretrain."""
    load = mmengine_config_utils.load
    mmengine_config_utils.load = functools.cache(load)
    yield
    mmengine_config_utils.load = load


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
