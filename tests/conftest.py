"""Fixtures of all tests."""

import logging
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')  # read when kernels are defined, on import

from builders import write_images
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

_MANAGERS = (MessageHub, MMLogger, DefaultScope, Visualizer)


@pytest.fixture(scope='session')
def image_root(tmp_path_factory):
    """A folder of 12 generated images of 4 classes."""
    return write_images(tmp_path_factory.mktemp('images'), per_class=3)


@pytest.fixture
def runner_scope():
    """Leave mmengine's global state as it was: a Runner registers itself, and the default scope, by name."""
    before = [dict(manager._instance_dict) for manager in _MANAGERS]
    yield
    for manager, instances in zip(_MANAGERS, before, strict=True):
        manager._instance_dict.clear()
        manager._instance_dict.update(instances)


@pytest.fixture
def told():
    """Messages of mmengine's current logger, as they come."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
