"""Unusable images and labels: one error names the file, and earlier checkpoints still resume."""

import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from builders import NUM_CLASSES, training_config, write_images
from mmengine.dataset import BaseDataset
from mmengine.runner import Runner

from serkd_mm.hooks import DataError
from serkd_mm.hooks.label_range_hook import _check_labels

pytestmark = pytest.mark.usefixtures('runner_scope')

PICTURE = 'class1/1.jpg'


def empty(root):
    (root / PICTURE).write_bytes(b'')


def text(root):
    (root / PICTURE).write_text('404: not found')


def truncated(root):
    (root / PICTURE).write_bytes((root / PICTURE).read_bytes()[:100])


def removed(root):
    annotated(root)
    (root / PICTURE).unlink()


def not_finite(value):
    def damage(root):
        picture = np.full((40, 40, 3), value, np.float32)
        (root / PICTURE).unlink()
        file, uncompressed = str(root / PICTURE.replace('jpg', 'tiff')), 1  # Compression in OpenCV 4.10 alters such values.
        assert cv2.imwrite(file, picture, [cv2.IMWRITE_TIFF_COMPRESSION, uncompressed])

    return damage


def annotated(root, first=0):
    """Write an annotation file whose labels start at ``first``; 1 is a common mistake."""
    pictures = sorted(path.relative_to(root) for path in root.glob('class*/*'))
    lines = [f'{path} {int(path.parent.name[-1]) + first}' for path in pictures]
    (root / 'images.txt').write_text('\n'.join(lines))


def labels_from_one(root):
    annotated(root, first=1)


def labels_from_minus_one(root):
    annotated(root, first=-1)


def extra_class(root):
    shutil.copytree(root / 'class0', root / f'class{NUM_CLASSES}')


def no_images(root):
    for picture in root.glob('class*/*'):
        picture.unlink()


def no_folder(root):
    shutil.rmtree(root)


LISTED = {'train_dataloader.dataset.ann_file': 'images.txt', 'train_dataloader.dataset.data_prefix': ''}
AS_STORED = [
    dict(type='LoadImageFromFile', color_type='unchanged'),
    dict(type='RandomResizedCrop', scale=32),
    dict(type='PackInputs'),
]
FLOATS = {'train_dataloader.dataset.pipeline': AS_STORED, 'train_dataloader.dataset.extensions': ('.jpg', '.tiff')}
MISTAKES = [
    # damage to the images, settings, name in the message, further part of the message
    (empty, {}, PICTURE, 'Replace the file'),
    # torch waits 5 seconds for each worker process of a failed loader.
    pytest.param(
        empty, {'train_dataloader.num_workers': 2}, PICTURE, 'Replace the file', marks=pytest.mark.slow, id='empty-worker'
    ),
    (text, {}, PICTURE, 'Replace the file'),
    (truncated, {}, PICTURE, 'Replace the file'),
    (removed, LISTED, PICTURE, 'No such file'),
    (not_finite(np.nan), FLOATS, PICTURE.replace('jpg', 'tiff'), 'not finite'),
    (not_finite(np.inf), FLOATS, PICTURE.replace('jpg', 'tiff'), 'not finite'),
    (labels_from_one, LISTED, 'class3/0.jpg', 'label 4'),
    (labels_from_minus_one, LISTED, 'class0/0.jpg', 'label -1'),
    (extra_class, {}, f'class{NUM_CLASSES}/0.jpg', f'num_classes={NUM_CLASSES + 1}'),
    (no_images, {}, 'train', ''),
    (no_folder, {}, 'train', ''),
    (lambda root: None, LISTED, 'images.txt', ''),
]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with images, and with the work folder of one epoch of training on them."""
    root = tmp_path_factory.mktemp('trained')
    write_images(root / 'train', per_class=3)
    config = training_config(root / 'train', root / 'work', **{'train_cfg.max_epochs': 1})
    Runner.from_cfg(config).train()
    return root


@pytest.mark.parametrize(('damage', 'settings', 'file', 'hint'), MISTAKES)
def test_error_names_the_file_and_the_last_checkpoint_is_unchanged(damage, settings, file, hint, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / 'train')
    saved = (tmp_path / 'work' / 'epoch_1.pth').read_bytes()
    resume = dict(resume=True, load_from=str(tmp_path / 'work' / 'epoch_1.pth'))
    config = training_config(tmp_path / 'train', tmp_path / 'work', **resume, **settings)
    config.train_dataloader.dataset.data_root = str(tmp_path / 'train')
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    with pytest.raises(Exception, match=re.escape(file)) as error:
        Runner.from_cfg(config).train()
    assert hint in str(error.value)
    assert sorted(path.name for path in (tmp_path / 'work').glob('*.pth')) == sorted(
        path.name for path in (trained / 'work').glob('*.pth')
    )
    assert (tmp_path / 'work' / 'epoch_1.pth').read_bytes() == saved


def test_error_names_the_file_inside_dataset_wrappers(trained, tmp_path):
    shutil.copytree(trained / 'train', tmp_path / 'train')
    empty(tmp_path / 'train')
    config = training_config(tmp_path / 'train', tmp_path / 'work')
    both = dict(type='ConcatDataset', datasets=[config.train_dataloader.dataset, config.val_dataloader.dataset])
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=both)
    with pytest.raises(DataError, match=PICTURE):
        Runner.from_cfg(config).train()


class Labeled(BaseDataset):
    """Images with given labels."""

    def load_data_list(self):
        return self._metainfo['labels']


@pytest.mark.parametrize('label', [{'gt_label': [1, 3]}, {'gt_label': np.array([0, 3])}, {'gt_label': np.int64(3)}, {}])
def test_multi_label_and_unlabeled_images(label):
    _check_labels('key', Labeled(metainfo=dict(labels=[label, label])), 4)
    if label:
        with pytest.raises(DataError, match='key: image 0 has the label 3, and the head has 3 outputs'):
            _check_labels('key', Labeled(metainfo=dict(labels=[label, label])), 3)


@pytest.mark.parametrize('batch_size', [1, 5], ids=['one image per batch', 'smaller last batch'])
def test_batches_of_any_size_train(batch_size, trained, tmp_path):
    config = training_config(trained / 'train', tmp_path, **{'train_dataloader.batch_size': batch_size})
    config.train_cfg.max_epochs = 1
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == -(-12 // batch_size)
    assert all(weight.isfinite().all() for weight in runner.model.parameters())


@pytest.mark.slow
def test_hooks_do_not_change_the_images(trained, tmp_path):
    losses = []
    for name, removed_hooks in (('with', ()), ('without', ('LabelRangeHook', 'ImageErrorHook'))):
        config = training_config(trained / 'train', tmp_path / name, **{'train_cfg.max_epochs': 1})
        config.custom_hooks = [hook for hook in config.custom_hooks if hook.type not in removed_hooks]
        runner = Runner.from_cfg(config)
        runner.train()
        losses.append(torch.tensor(runner.message_hub.log_scalars['train/loss'].data[0]))
    assert torch.equal(*losses)


def test_fewer_classes_than_outputs_are_reported_and_train(trained, tmp_path):
    shutil.copytree(trained / 'train', tmp_path / 'train')
    shutil.rmtree(tmp_path / 'train' / 'class3')
    runner = Runner.from_cfg(training_config(tmp_path / 'train', tmp_path / 'work', **{'train_cfg.max_epochs': 1}))
    warnings = []
    runner.logger.warning = warnings.append
    runner.train()
    assert 'train_dataloader.dataset has 3 classes, but the head has 4 outputs' in '\n'.join(warnings)
