"""Every epoch has each image of its view once, in the same steps for any number of ranks."""

from itertools import chain

import pytest
from builders import write_images
from mmpretrain.registry import DATA_SAMPLERS, DATASETS

from serkd_mm.teacher_cache import CacheError

AUGMENTS = dict(augments=dict(type='Mixup', alpha=0.8))


@pytest.fixture(scope='module')
def datasets(tmp_path_factory):
    """Three views of the first images of a folder, by number of images and mixing."""
    root = write_images(tmp_path_factory.mktemp('images'), per_class=4)
    inner = dict(
        type='CustomDataset', data_prefix=str(root), pipeline=[dict(type='LoadImageFromFile')], serialize_data=False
    )
    return {
        (count, mixed): DATASETS.build(
            dict(
                type='RepeatableViews', num_views=3, dataset=dict(inner, indices=count), augments=AUGMENTS if mixed else None
            )
        )
        for count in (8, 11, 12)
        for mixed in (False, True)
    }


def epoch_of(dataset, epoch=0, rank=0, world_size=1, **settings):
    sampler = DATA_SAMPLERS.build(dict(type='ViewSampler', dataset=dataset, seed=0, **settings))
    sampler.rank, sampler.world_size = rank, world_size
    sampler.set_epoch(epoch)
    indices = list(sampler)
    assert len(sampler) == len(indices)
    return indices


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('count', [8, 11, 12])
def test_each_position_of_the_view_once_in_an_epoch(datasets, count, mixed):
    dataset = datasets[count, mixed]
    size = len(dataset)
    assert size == count + (mixed and count % 2)
    orders = []
    for epoch in range(4):
        for world_size in (1, 2, 3):
            parts = [epoch_of(dataset, epoch, rank, world_size, round_up=False) for rank in range(world_size)]
            view = epoch % 3
            assert sorted(chain(*parts)) == list(range(view * size, view * size + size))
            images = [dataset.image_of(index) for part in parts for index in part]
            assert sorted(set(images)) == list(range(count))
        orders.append([index % size for index in epoch_of(dataset, epoch)])
    assert len(set(map(tuple, orders))) > 1


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('count', [11, 12])
def test_rounding_up_gives_all_ranks_as_many_images(datasets, count, mixed):
    dataset = datasets[count, mixed]
    for world_size in (2, 3, 5, 16):
        parts = [epoch_of(dataset, 0, rank, world_size) for rank in range(world_size)]
        assert len({len(part) for part in parts}) == 1
        assert set(chain(*parts)) == set(range(len(dataset)))


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('count', [8, 12])
def test_two_ranks_see_the_images_of_one_in_each_step(datasets, count, mixed):
    dataset = datasets[count, mixed]
    one, parts = epoch_of(dataset), [epoch_of(dataset, 0, rank, 2) for rank in (0, 1)]
    for step in range(count // 4):
        together = chain(*(part[2 * step : 2 * step + 2] for part in parts))
        assert sorted(together) == sorted(one[4 * step : 4 * step + 4])
    if mixed:
        for part in parts:
            assert all(first % 2 == 0 and second == first + 1 for first, second in zip(part[::2], part[1::2], strict=True))


def test_order_without_shuffling(datasets):
    assert epoch_of(datasets[8, True], 1, shuffle=False) == list(range(8, 16))


def test_other_data_sets_are_refused(datasets):
    with pytest.raises(CacheError, match=r"needs train_dataloader.dataset=dict\(type='RepeatableViews'.* is CustomDataset"):
        DATA_SAMPLERS.build(dict(type='ViewSampler', dataset=datasets[8, True].dataset))
