"""The fingerprint of a data set follows its files and pipelines, and not the folder that it lies in."""

import shutil

import PIL
import pytest
from builders import write_images
from mmpretrain.registry import DATASETS

from serkd_mm.teacher_cache.fingerprints import data_differences, data_fingerprint, version_differences, versions

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=16, crop_ratio_range=(0.2, 1.0)),
    dict(type='PackInputs'),
]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'), per_class=2)


def fingerprint(root, pipeline=PIPELINE, **settings):
    config = dict(type='CustomDataset', data_root=str(root.parent), data_prefix=root.name, pipeline=pipeline, **settings)
    return data_fingerprint(config, DATASETS.build(config))


def test_moved_folder_and_absolute_paths_are_the_same(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / 'elsewhere' / 'train')
    stored = fingerprint(root)
    assert data_differences(stored, fingerprint(copy)) == []
    assert data_differences(stored, fingerprint(root, [dict(part) for part in PIPELINE])) == []
    config = dict(type='CustomDataset', data_prefix=f'{root}/', pipeline=PIPELINE)
    assert data_differences(stored, data_fingerprint(config, DATASETS.build(config))) == []


def test_other_files_are_described(root, tmp_path):
    stored = fingerprint(root)
    copy = shutil.copytree(root, tmp_path / 'train')
    (copy / 'class3' / '1.jpg').rename(copy / 'class3' / '7.jpg')
    (difference,) = data_differences(stored, fingerprint(copy))
    assert difference.startswith('the list of image files is another one: a class folder or images were added, removed')
    shutil.rmtree(copy / 'class3')
    (difference,) = data_differences(stored, fingerprint(copy))
    assert difference.startswith('the data set had 8 images and has 6: a class folder')


def test_other_pipeline_is_described_by_its_first_difference(root):
    stored = fingerprint(root)
    other = [PIPELINE[0], dict(PIPELINE[1], scale=24), PIPELINE[2]]
    assert data_differences(stored, fingerprint(root, other)) == ['pipeline[1].scale was 16 and is 24']
    longer = [*PIPELINE[:2], dict(type='RandomFlip', prob=0.5), PIPELINE[2]]
    (difference,) = data_differences(stored, fingerprint(root, longer))
    assert difference == "pipeline[2].type was 'PackInputs' and is 'RandomFlip'"


def test_pipelines_inside_wrappers_count(root):
    config = dict(type='CustomDataset', data_prefix=str(root), pipeline=PIPELINE)
    other = dict(config, pipeline=[*PIPELINE[:1], *PIPELINE[2:]])
    dataset = DATASETS.build(config)
    stored = data_fingerprint(dict(type='ConcatDataset', datasets=[config, config]), dataset)
    assert len(stored['pipelines']) == 2
    present = data_fingerprint(dict(type='ConcatDataset', datasets=[config, other]), dataset)
    assert data_differences(stored, present)[0].startswith('pipeline 2[1].')
    assert data_differences(stored, data_fingerprint(config, dataset)) == ['the data set had 2 pipelines and has 1']


def test_versions_that_differ_are_named():
    stored = versions()
    assert version_differences(stored) == []
    assert version_differences({**stored, 'Pillow': '1.0'}) == [f'Pillow 1.0 instead of {PIL.__version__}']
    assert all(isinstance(value, str) and value for value in stored.values())
