"""Class folders that differ, that are none, that hold files of other types, and batches without images."""

import re
import shutil

import cv2
import numpy as np
import pytest
from builders import distiller_config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from serkd_mm.config_errors import ConfigError
from serkd_mm.errors import one_line_errors
from serkd_mm.hooks import DataError
from serkd_mm.runner import CheckedRunner

pytestmark = pytest.mark.usefixtures('runner_scope')

NAMES = [f'class{label}' for label in range(4)]


def error_of(config, runner=Runner):
    with pytest.raises(DataError) as error:
        runner.from_cfg(config).train()
    return str(error.value)


def rename(folder, name):
    folder.rename(folder.with_name(name))


def add(folder):
    folder.mkdir()
    assert cv2.imwrite(str(folder / '0.jpg'), np.zeros((40, 40, 3), np.uint8))


@pytest.mark.parametrize('name', ['.ipynb_checkpoints', '__MACOSX', '@eaDir'])
def test_system_folder_is_named_and_not_taken_for_a_class(name, root, config_of):
    for split in ('train', 'val'):
        add(root / split / name)
    message = error_of(config_of())
    assert message.startswith(f'train_dataloader.dataset: {root}/train/{name} would count as a class')
    assert 'Remove it' in message
    # With `classes`, mmpretrain counts the folders while it builds the dataset, before any hook.
    message = error_of(config_of(**{'train_dataloader.dataset.classes': NAMES}), CheckedRunner)
    assert f'{root}/train/{name} would count as a class' in message


CHANGES = {
    # name of the damage: what to do with the folder of the validation data, parts of the message
    'renamed': (lambda val: rename(val / 'class1', 'clas1'), ["'clas1' (renamed from 'class1'?)"]),
    'renamed in place': (lambda val: rename(val / 'class1', 'class1b'), ["'class1b' (renamed from 'class1'?)"]),
    'missing': (lambda val: shutil.rmtree(val / 'class1'), ["class 'class2' has the label 1, but 2 in", "'class1'"]),
    'extra': (lambda val: add(val / 'class0b'), ["'class1' has the label 2, but 1 in", "has 'class0b'"]),
    'extra at the end': (lambda val: add(val / 'class4'), ["'class4'", 'rename, add or remove folders']),
}


WRAPPERS = ['RepeatDataset', 'ConcatDataset', 'ClassBalancedDataset', 'KFoldDataset']


@pytest.mark.parametrize(
    ('change', 'wrapper'), [*((change, None) for change in CHANGES), *(('missing', wrapper) for wrapper in WRAPPERS)]
)
def test_class_folders_of_train_and_val_that_differ_are_named(change, wrapper, root, config_of):
    damage, parts = CHANGES[change]
    damage(root / 'val')
    config = config_of()
    settings = {
        'RepeatDataset': dict(times=2),
        'ClassBalancedDataset': dict(oversample_thr=0.01),
        'KFoldDataset': dict(num_splits=2),
    }
    for loader in (config.train_dataloader, config.val_dataloader):
        if wrapper == 'ConcatDataset':
            loader.dataset = dict(type=wrapper, datasets=[loader.dataset, loader.dataset])
        elif wrapper:
            loader.dataset = dict(type=wrapper, dataset=loader.dataset, **settings[wrapper])
    message = error_of(config)
    assert str(root / 'train') in message
    assert str(root / 'val') in message
    for part in parts:
        assert part in message


def test_training_without_labels_takes_images_from_any_folders(root, config_of):
    for name in ('apple', '.thumbnails'):  # They shift the labels of the training images, which nothing reads.
        add(root / 'train' / name)

    def config(**changes):
        model = distiller_config(losses__loss_cls=None, student__taps__logits='head')
        return config_of(model=dict(_delete_=True, **model), **changes)

    Runner.from_cfg(config()).train()
    Runner.from_cfg(config(load_from=str(root / 'work' / 'epoch_1.pth'))).test()


def test_fewer_classes_in_val_train_where_labels_agree(root, config_of):
    shutil.rmtree(root / 'val' / 'class3')  # The last one: no label shifts.
    runner = Runner.from_cfg(config_of())
    warnings = []
    runner.logger.warning = runner.logger.log = lambda *args: warnings.append(args[-1])
    runner.train()
    assert [line for line in warnings if "has no class 'class3'" in line]
    # The same `classes` and an annotation file: the labels are the file's.
    shutil.rmtree(root / 'val' / 'class0')
    (root / 'val.txt').write_text('class1/0.jpg 1\nclass2/0.jpg 2\n')
    both = {f'{split}_dataloader.dataset.classes': NAMES for split in ('train', 'val')}
    Runner.from_cfg(
        config_of(**both, **{'val_dataloader.dataset.ann_file': str(root / 'val.txt'), 'work_dir': str(root / 'listed')})
    ).train()


def test_lists_of_classes_that_contradict_are_reported(root, config_of):
    for split in ('train', 'val'):
        lines = [f'class{label}/0.jpg {label}' for label in range(4)]
        (root / f'{split}.txt').write_text('\n'.join(lines))
    settings = {f'{split}_dataloader.dataset.ann_file': str(root / f'{split}.txt') for split in ('train', 'val')}
    classes = {'train_dataloader.dataset.classes': NAMES, 'val_dataloader.dataset.classes': NAMES[::-1]}
    assert 'The order differs' in error_of(config_of(**settings, **classes))


def test_checkpoint_is_not_tested_on_shifted_classes(root, config_of):
    Runner.from_cfg(config_of()).train()
    shutil.rmtree(root / 'val' / 'class1')
    with pytest.raises(DataError, match="'class2' has the label 1, but 2 in the checkpoint"):
        Runner.from_cfg(config_of(load_from=str(root / 'work' / 'epoch_1.pth'))).test()


def test_number_of_class_folders_is_compared_with_classes(root, config_of):
    add(root / 'train' / 'kitten')
    message = error_of(config_of(**{'train_dataloader.dataset.classes': NAMES}), CheckedRunner)
    assert f"{root}/train has 5 class folders, but `classes` of CustomDataset has 4 names: 'kitten' not in" in message


@pytest.mark.parametrize('classes', [None, NAMES])
def test_images_without_class_folders_are_reported(classes, root, config_of, capsys):
    for folder in (root / 'train').glob('class*'):
        (folder / '0.jpg').rename(root / 'train' / f'{folder.name}.jpg')
        if classes is None:
            folder.rmdir()
    config = config_of(**{'train_dataloader.dataset.classes': classes})
    init_default_scope('mmpretrain')  # As every Runner does.

    def line():
        with pytest.raises(SystemExit), one_line_errors():
            CheckedRunner.build_dataloader(config.train_dataloader)
        (printed,) = capsys.readouterr().err.splitlines()
        return printed

    assert re.search(f'^error: {root}/train: the images lie directly in the folder.*a folder for each class', line())
    assert 'with_label=False and model.losses.loss_cls=None' in line()
    config.train_dataloader.dataset.with_label = False
    assert len(CheckedRunner.build_dataloader(config.train_dataloader).dataset) == 4
    for picture in (root / 'train').glob('*.jpg'):
        picture.rename(picture.with_suffix('.webp'))
    for config.train_dataloader.dataset.with_label in (False, True):
        assert line().startswith(f'error: {root}/train: there are no images in it or in its folders (.bmp')


def test_advice_about_a_label_out_of_range_depends_on_its_origin(root, config_of):
    for split in ('train', 'val'):
        add(root / split / 'class4')
    message = error_of(config_of())
    assert re.search(r'has the label 4.*has 5 folders.*Remove or move those that are not classes', message)
    (root / 'one.txt').write_text('\n'.join(f'class{label}/0.jpg {label + 1}' for label in range(4)))
    message = error_of(config_of(**{'train_dataloader.dataset.ann_file': str(root / 'one.txt')}))
    assert 'Labels in annotation files start at 0' in message
    assert 'folders' not in message


def test_skipped_image_files_are_counted(root, config_of):
    for name in ('a.webp', 'b.WEBP', 'c.gif', 'notes.txt', '.hidden.webp'):
        (root / 'train' / 'class0' / name).write_bytes(b'x')
    config = config_of()
    runner = Runner.from_cfg(config)
    messages = []
    runner.logger.log = lambda _, message: messages.append(message)
    runner.train()
    (found,) = [message for message in messages if 'are not read' in message]
    assert f'1 .gif and 2 .webp files in {root}/train are not read, for example {root}/train/class0/' in found
    assert re.search(r"extensions=\(.*'\.webp'.*\)", found)


def test_link_to_a_missing_image_is_named(root, config_of):
    picture = root / 'train' / 'class1' / '0.jpg'
    picture.unlink()
    picture.symlink_to('missing.jpg')
    message = error_of(config_of())
    assert f'{picture} is a link to missing.jpg, which does not exist. Restore it or remove the link' in message


@DATASETS.register_module()
class TwoLabels(CustomDataset):
    """Each image has two labels."""

    def load_data_list(self):
        return [{**info, 'gt_label': [0, 2]} for info in super().load_data_list()]


def test_several_labels_for_a_head_of_one_are_reported(root, config_of):
    message = error_of(config_of(**{'train_dataloader.dataset.type': 'TwoLabels'}))
    assert re.search(r'\.jpg has 2 labels, and the head learns one. Use a head for several labels', message)


def test_accuracy_of_more_classes_than_outputs_is_reported(root, config_of):
    with pytest.raises(ConfigError, match=r'val_evaluator\.topk=\(1, 5\), but the head has 4 outputs'):
        Runner.from_cfg(config_of(**{'val_evaluator.topk': (1, 5)})).train()


def test_epoch_without_a_batch_is_reported(root, config_of):
    settings = {'train_dataloader.batch_size': 5, 'train_dataloader.drop_last': True}
    for runner, schedule in ((Runner, []), (CheckedRunner, [dict(type='CosineAnnealingLR', convert_to_iter_based=True)])):
        message = error_of(config_of(**settings, param_scheduler=schedule), runner)
        assert '4 images for 1 rank(s) with a batch size of 5 make no batch, because drop_last=True' in message


@pytest.mark.parametrize('kind', ['InstanceDistanceLoss', 'InstanceAngleLoss'])
def test_batch_too_small_for_a_loss_between_images_is_reported(kind, root, config_of):
    config = config_of(**{'train_dataloader.batch_size': 2})
    config.model = distiller_config(losses__loss_rkd=dict(type=kind, on='logits'))
    message = error_of(config)
    assert f'train_dataloader.batch_size=2: model.losses.loss_rkd ({kind})' in message
    assert 'loss_rkd=None' in message


ANNOTATIONS = {
    'byte order mark': ('\ufeffclass0/0.jpg 0\nclass1/0.jpg 1', 'line 1: the file begins with a byte order mark'),
    'tab': ('class0/0.jpg 0\nclass1/0.jpg\t1', 'line 2: a tab'),
    'comma': ('class0/0.jpg 0\nclass1/0.jpg,1', 'line 2: a comma'),
    'blank line': ('class0/0.jpg 0\n\nclass1/0.jpg 1', 'line 2: the line is blank'),
    'float': ('class0/0.jpg 0\nclass1/0.jpg 1.0', "line 2: the label '1.0' is not a whole number"),
    'no label': ('class0/0.jpg 0\nclass1/0.jpg', 'line 2: there is no label'),
    'space in a name': ('class0/0.jpg 0\nclass1/my cat.jpg', 'line 2: there is no label'),
    'other encoding': (b'class0/0.jpg 0\ncl\xe4ss1/0.jpg 1', 'is not UTF-8'),
}


@pytest.mark.parametrize('mistake', ANNOTATIONS)
def test_annotation_file_and_line_are_named(mistake, root, config_of):
    text, expected = ANNOTATIONS[mistake]
    file = root / 'train.txt'
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    config = config_of(**{'train_dataloader.dataset.ann_file': str(file)})
    config.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=config.train_dataloader.dataset)
    init_default_scope('mmpretrain')  # As every Runner does.
    with pytest.raises(DataError) as error:
        CheckedRunner.build_dataloader(config.train_dataloader)
    assert str(error.value).startswith(str(file))
    assert expected in str(error.value)


def test_annotation_file_with_windows_line_ends_and_spaces_is_read(root, config_of):
    for split in ('train', 'val'):
        (root / split / 'class0' / '0.jpg').rename(root / split / 'class0' / 'my cat.jpg')
    (root / 'train.txt').write_bytes(b'class0/my cat.jpg 0\r\nclass1/0.jpg 1 \r\n')
    runner = CheckedRunner.from_cfg(config_of(**{'train_dataloader.dataset.ann_file': str(root / 'train.txt')}))
    runner.train()
    assert runner.iter == 1
