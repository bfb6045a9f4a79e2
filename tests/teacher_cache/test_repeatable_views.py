"""A view of a data set is the same whenever, wherever and in whatever order it is loaded."""

import random

import numpy as np
import pytest
import torch
from builders import NUM_CLASSES, read_config, write_images
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader

from serkd_mm.seeding import derive_seed, seeded
from serkd_mm.teacher_cache import CacheError, RepeatableViews
from serkd_mm.teacher_cache.repeatable_views import _MIXING
from serkd_mm.teacher_cache.view_mixing import PairMixing

MIXUP, CUTMIX = dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)
BOTH = dict(augments=[MIXUP, CUTMIX])


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Folder of 12 JPEG files."""
    return write_images(tmp_path_factory.mktemp('images'), per_class=3, size=48)


@pytest.fixture(scope='module')
def deit_pipeline():
    """The pipeline that mmpretrain trains DeiT with: crops of Pillow, RandAugment, random erasing."""
    pipeline = read_config('_base_/datasets/imagenet_deit_224.py').train_pipeline
    pipeline[1].scale = 32
    assert [part.type for part in pipeline] == [
        'LoadImageFromFile',
        'RandomResizedCrop',
        'RandomFlip',
        'RandAugment',
        'RandomErasing',
        'PackInputs',
    ]
    return pipeline


def folder(root, pipeline, **settings):
    return dict(type='CustomDataset', data_prefix=str(root), pipeline=pipeline, **settings)


def crops(scale=16):
    return [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=scale),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]


def build(dataset, num_views=3, **settings):
    return DATASETS.build(dict(type='RepeatableViews', dataset=dataset, num_views=num_views, **settings))


def first(batch):
    return batch[0]


def random_state():
    return repr(random.getstate()), repr(np.random.get_state()), torch.get_rng_state().tolist()


def assert_same(one, two):
    assert torch.equal(one['inputs'], two['inputs'])
    for name in ('img_path', 'sample_idx', 'view_mix'):
        assert one['data_samples'].get(name) == two['data_samples'].get(name)
    assert torch.equal(one['data_samples'].gt_label, two['data_samples'].gt_label)


def test_image_depends_on_neither_order_nor_workers_nor_the_random_state(root, deit_pipeline):
    dataset = build(folder(root, deit_pipeline), augments=BOTH)
    indices = list(range(3 * len(dataset)))
    expected = [dataset[index] for index in indices]
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    before = random_state()
    other = build(folder(root, deit_pipeline), augments=BOTH)
    for index in reversed(indices):
        assert_same(other[index], expected[index])
    assert random_state() == before
    order = torch.randperm(len(indices)).tolist()
    loader = DataLoader(dataset, sampler=order, batch_size=1, num_workers=2, collate_fn=first)
    for index, item in zip(order, loader, strict=True):
        assert_same(item, expected[index])


def test_views_and_images_differ(root, deit_pipeline):
    dataset = build(folder(root, deit_pipeline))
    by_image = {}
    for index in range(3 * len(dataset)):
        by_image.setdefault(dataset.image_of(index), []).append(dataset[index]['inputs'].numpy().tobytes())
    assert set(by_image) == set(range(12))
    assert len({view for views in by_image.values() for view in views}) == 36
    other_seed = build(folder(root, deit_pipeline), seed=1)
    assert other_seed._order_of(0).tolist() != dataset._order_of(0).tolist()
    index = other_seed._order_of(0).tolist().index(0)
    assert other_seed[index]['inputs'].numpy().tobytes() not in by_image[0]


def test_order_of_a_view_is_the_same_in_all_versions_of_numpy(root):
    # Fixed numbers: an update of NumPy that changed them would make all caches unusable.
    dataset = build(folder(root, crops()), seed=3)
    assert dataset._order_of(0).tolist() == [8, 7, 3, 11, 5, 1, 2, 10, 4, 6, 9, 0]
    assert dataset._order_of(2).tolist() == [5, 1, 4, 10, 6, 8, 9, 3, 11, 0, 7, 2]


@pytest.mark.parametrize('wrapper', ['ConcatDataset', 'RepeatDataset', 'subset'])
def test_data_set_may_be_wrapped_or_a_subset(root, wrapper, runner_scope):
    DefaultScope.get_instance('wrapped', scope_name='mmpretrain')  # A Runner sets it; mmengine's wrappers need it.
    inner = folder(root, crops())
    config = {
        'ConcatDataset': dict(type='ConcatDataset', datasets=[inner, folder(root, crops(), indices=5)]),
        'RepeatDataset': dict(type='RepeatDataset', dataset=inner, times=2),
        'subset': folder(root, crops(), indices=5),
    }[wrapper]
    size = {'ConcatDataset': 17, 'RepeatDataset': 24, 'subset': 5}[wrapper]
    dataset = build(config, augments=BOTH)
    assert (dataset.num_images, len(dataset)) == (size, size + size % 2)
    assert sorted({dataset.image_of(index) for index in range(len(dataset))}) == list(range(size))
    plain = DATASETS.build(config)
    for index in range(len(dataset)):
        path = plain.get_data_info(dataset.image_of(index))['img_path']
        assert dataset[index]['data_samples'].img_path == dataset.get_data_info(index)['img_path'] == path
    assert dataset.metainfo['classes'] == plain.metainfo['classes']
    if wrapper == 'subset':  # mmengine's wrappers have no such method.
        assert dataset.get_cat_ids(0) == [dataset.get_data_info(0)['gt_label']]


def test_without_mixing_an_odd_number_stays_odd(root):
    dataset = build(folder(root, crops(), indices=5))
    assert len(dataset) == 5
    assert 'view_mix' not in dataset[0]['data_samples']
    with pytest.raises(IndexError):
        dataset[15]


def test_mates_are_neighbors_in_the_order_and_share_what_is_drawn(root):
    dataset = build(folder(root, crops(), indices=11), augments=BOTH, seed=2)
    seen = []
    for view in range(3):
        order = dataset._order_of(view).tolist()
        for pair in range(6):
            position = view * 12 + 2 * pair
            one, two = (dataset[position + offset]['data_samples'].view_mix for offset in (0, 1))
            assert (one.image, one.mate) == (two.mate, two.image)
            assert one[2:] == two[2:]
            if pair == 5:  # The last one of 11 images has no other mate.
                assert one.image == one.mate == order[10]
                assert one.is_identity
                continue
            assert [one.image, one.mate] == order[2 * pair : 2 * pair + 2]
            with seeded(derive_seed(2, view, pair, _MIXING)):
                assert one == PairMixing(BOTH).draw(one.image, one.mate, (16, 16))
            seen.append(one[2:])
    assert len(set(seen)) == 15


class Unpacked:
    """A transform that replaces the result of a pipeline."""

    def __init__(self, change):
        self.change = change

    def __call__(self, result):
        return self.change(result)


@pytest.mark.parametrize(
    'change', [lambda result: result['inputs'], lambda result: {'inputs': [result['inputs']] * 2}, lambda result: {}]
)
def test_pipeline_must_return_one_image(root, change):
    with pytest.raises(CacheError, match=r'must return one image tensor as `inputs` and a DataSample'):
        build(folder(root, [*crops(), Unpacked(change)]))[0]


SETTINGS = {
    'num_views': (dict(num_views=0), 'RepeatableViews.num_views must be a whole number, 1 or more, but is 0'),
    'seed': (dict(seed=-1), 'RepeatableViews.seed must be a whole number, 0 or more, but is -1'),
    'dataset': (dict(dataset=None), 'RepeatableViews.dataset must be the config of a data set, but is NoneType'),
    'augments': (dict(augments=[MIXUP]), r'must be dict\(augments='),
    'ResizeMix': (dict(augments=dict(augments=dict(type='ResizeMix', alpha=1.0))), 'ResizeMix cannot be repeated'),
    'unknown': (dict(augments=dict(augments=dict(type='Mixdown'))), 'RepeatableViews.augments=.*Mixdown'),
    'probs': (dict(augments=dict(augments=[MIXUP], probs=[0.5, 0.5])), 'must have same lengths'),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_unusable_setting_is_reported_by_its_name(root, name):
    changes, message = SETTINGS[name]
    with pytest.raises(CacheError, match=message):
        RepeatableViews(**{'dataset': folder(root, crops()), 'num_views': 2, **changes})


def test_labels_are_those_of_the_images(root):
    dataset = build(folder(root, crops()))
    for index in range(36):
        sample = dataset[index]['data_samples']
        assert f'class{int(sample.gt_label)}' in sample.img_path
    assert {int(dataset.get_data_info(index)['gt_label']) for index in range(12)} == set(range(NUM_CLASSES))
