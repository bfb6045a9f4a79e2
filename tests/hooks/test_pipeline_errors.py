"""Pipelines that do not make batches are reported with a file and with what is missing."""

import cv2
import numpy as np
import pytest
from builders import training_config, write_images
from mmengine.runner import Runner

from serkd_mm.hooks import DataError

pytestmark = pytest.mark.usefixtures('runner_scope')

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')


@pytest.mark.parametrize(
    ('pipeline', 'message'),
    [
        ([LOAD, PACK], r'class\d/\d\.jpg has the shape \(3, .*class\d/\d\.jpg has \(3, .*one size'),
        ([LOAD, dict(type='RandomResizedCrop', scale=32)], r"class\d/\d\.jpg: .*no 'inputs'.*PackInputs"),
    ],
    ids=['sizes', 'not packed'],
)
def test_a_pipeline_that_does_not_fit_is_reported(pipeline, message, tmp_path):
    root = write_images(tmp_path / 'images', per_class=1)
    assert cv2.imwrite(str(root / 'class1' / '0.jpg'), np.zeros((32, 48, 3), np.uint8))
    config = training_config(root, tmp_path / 'work', **{'train_dataloader.dataset.pipeline': pipeline})
    with pytest.raises(DataError, match=message):
        Runner.from_cfg(config).train()
