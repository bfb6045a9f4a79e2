"""Images and labels that can not be used: one error that names the file, and what was saved before still resumes."""

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


def cut_short(root):
    (root / PICTURE).write_bytes((root / PICTURE).read_bytes()[:100])


def removed(root):
    annotated(root)
    (root / PICTURE).unlink()


def not_finite(value):
    def damage(root):
        picture = np.full((40, 40, 3), value, np.float32)
        (root / PICTURE).unlink()
        file, without = str(root / PICTURE.replace('jpg', 'tiff')), 1  # OpenCV 4.10 compresses such numbers to others.
        assert cv2.imwrite(file, picture, [cv2.IMWRITE_TIFF_COMPRESSION, without])

    return damage


def annotated(root, first=0):
    """List the images in a file, as people who count from 1 do with ``first=1``."""
    pictures = sorted(path.relative_to(root) for path in root.glob('class*/*'))
    lines = [f'{path} {int(path.parent.name[-1]) + first}' for path in pictures]
    (root / 'images.txt').write_text('\n'.join(lines))


def from_one(root):
    annotated(root, first=1)


def from_minus_one(root):
    annotated(root, first=-1)


def one_class_more(root):
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
    # damage to the images, settings, what the message names, what else it says
    (empty, {}, PICTURE, 'Replace the file'),
    # torch waits 5 seconds for each worker process of a loader that failed.
    pytest.param(
        empty, {'train_dataloader.num_workers': 2}, PICTURE, 'Replace the file', marks=pytest.mark.slow, id='empty-worker'
    ),
    (text, {}, PICTURE, 'Replace the file'),
    (cut_short, {}, PICTURE, 'Replace the file'),
    (removed, LISTED, PICTURE, 'No such file'),
    (not_finite(np.nan), FLOATS, PICTURE.replace('jpg', 'tiff'), 'not finite'),
    (not_finite(np.inf), FLOATS, PICTURE.replace('jpg', 'tiff'), 'not finite'),
    (from_one, LISTED, 'class3/0.jpg', 'label 4'),
    (from_minus_one, LISTED, 'class0/0.jpg', 'label -1'),
    (one_class_more, {}, f'class{NUM_CLASSES}/0.jpg', f'num_classes={NUM_CLASSES + 1}'),
    (no_images, {}, 'train', ''),
    (no_folder, {}, 'train', ''),
    (lambda root: None, LISTED, 'images.txt', ''),
]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Images, and a work folder that one epoch has been trained on them."""
    root = tmp_path_factory.mktemp('trained')
    write_images(root / 'train', per_class=3)
    config = training_config(root / 'train', root / 'work', **{'train_cfg.max_epochs': 1})
    Runner.from_cfg(config).train()
    return root


@pytest.mark.parametrize(('damage', 'settings', 'file', 'hint'), MISTAKES)
def test_the_file_is_named_and_the_last_checkpoint_still_resumes(damage, settings, file, hint, trained, tmp_path):
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


def test_inside_wrappers_too(trained, tmp_path):
    shutil.copytree(trained / 'train', tmp_path / 'train')
    empty(tmp_path / 'train')
    config = training_config(tmp_path / 'train', tmp_path / 'work')
    both = dict(type='ConcatDataset', datasets=[config.train_dataloader.dataset, config.val_dataloader.dataset])
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=both)
    with pytest.raises(DataError, match=PICTURE):
        Runner.from_cfg(config).train()


class Labelled(BaseDataset):
    """Images with the labels that are given."""

    def load_data_list(self):
        return self._metainfo['labels']


@pytest.mark.parametrize('label', [{'gt_label': [1, 3]}, {'gt_label': np.array([0, 3])}, {'gt_label': np.int64(3)}, {}])
def test_several_labels_of_an_image_or_none(label):
    _check_labels('key', Labelled(metainfo=dict(labels=[label, label])), 4)
    if label:
        with pytest.raises(DataError, match='key: image 0 has the label 3, and the head has 3 outputs'):
            _check_labels('key', Labelled(metainfo=dict(labels=[label, label])), 3)


@pytest.mark.parametrize('batch_size', [1, 5], ids=['one image a batch', 'odd last batch'])
def test_batches_of_any_size_train(batch_size, trained, tmp_path):
    config = training_config(trained / 'train', tmp_path, **{'train_dataloader.batch_size': batch_size})
    config.train_cfg.max_epochs = 1
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == -(-12 // batch_size)
    assert all(weight.isfinite().all() for weight in runner.model.parameters())


@pytest.mark.slow
def test_the_model_gets_the_images_it_got_without_the_hooks(trained, tmp_path):
    losses = []
    for name, left_out in (('with', ()), ('without', ('LabelRangeHook', 'ImageErrorHook'))):
        config = training_config(trained / 'train', tmp_path / name, **{'train_cfg.max_epochs': 1})
        config.custom_hooks = [hook for hook in config.custom_hooks if hook.type not in left_out]
        runner = Runner.from_cfg(config)
        runner.train()
        losses.append(torch.tensor(runner.message_hub.log_scalars['train/loss'].data[0]))
    assert torch.equal(*losses)


def test_fewer_classes_than_outputs_are_told_and_train(trained, tmp_path):
    shutil.copytree(trained / 'train', tmp_path / 'train')
    shutil.rmtree(tmp_path / 'train' / 'class3')
    runner = Runner.from_cfg(training_config(tmp_path / 'train', tmp_path / 'work', **{'train_cfg.max_epochs': 1}))
    warnings = []
    runner.logger.warning = warnings.append
    runner.train()
    assert 'train_dataloader.dataset has 3 classes and the head 4 outputs' in '\n'.join(warnings)
