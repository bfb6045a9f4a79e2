"""Records travel with the images that the teacher saw; images, data or settings that differ are errors that name them."""

import pickle
import shutil
from dataclasses import replace

import cv2
import numpy as np
import PIL
import pytest
from builders import training_config, write_images
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader
from training_variants import use_repeatable_views

from serkd_mm.errors import one_line
from serkd_mm.teacher_cache import CacheError, Entry, Manifest, ShardWriter, TeacherCache, augmented_image_checksum
from serkd_mm.teacher_cache.fingerprints import data_fingerprint, versions
from serkd_mm.teacher_cache.formats import MeanFormat
from serkd_mm.teacher_cache.record_files import shard_path

AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=32),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]


def build(root, cache=None, pipeline=PIPELINE, **settings):
    config = dict(type='CustomDataset', data_prefix=str(root), pipeline=pipeline)
    views = dict(type='RepeatableViews', dataset=config, num_views=2, seed=3, augments=AUGMENTS)
    return DATASETS.build({**views, 'cache': cache and str(cache), **settings})


def payload_of(view, position, num_bytes):
    return np.random.default_rng((view, position)).integers(0, 256, num_bytes, dtype=np.uint8)


def write_cache(folder, views):
    """Write a cache of random payloads for repeatable views."""
    kind = MeanFormat(16)
    entry = Entry('backbone', None, None, 'mean', kind.settings, None, 0, kind.num_bytes)
    manifest = Manifest(
        num_views=views.num_views,
        seed=views.seed,
        num_images=views.num_images,
        num_positions=views.num_positions,
        shard_size=4,
        dtype='float16',
        augments=views.augments,
        teacher={},
        taps={},
        entries=[entry],
        data=data_fingerprint(views.dataset_config, views.dataset),
        versions=versions(),
        complete=True,
    )
    for view in range(manifest.num_views):
        for shard in range(manifest.num_shards):
            writer = ShardWriter(folder, manifest, view, shard)
            positions = range(shard * 4, shard * 4 + manifest.shard_length(shard))
            inputs = [views[view * manifest.num_positions + position]['inputs'] for position in positions]
            payloads = [payload_of(view, position, kind.num_bytes) for position in positions]
            writer.append([augmented_image_checksum(image) for image in inputs], np.stack(payloads))
            writer.finish()
    manifest.save(folder)
    return manifest


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """Folders of 11 images and of a cache of two views of them."""
    root = write_images(tmp_path_factory.mktemp('images'), per_class=3)
    (root / 'class1' / '2.jpg').unlink()
    folder = tmp_path_factory.mktemp('cache')
    write_cache(folder, build(root))
    return root, folder


@pytest.fixture
def copies(written, tmp_path):
    """Copies of both folders, to be changed."""
    return [shutil.copytree(folder, tmp_path / name) for folder, name in zip(written, ('moved', 'cache'), strict=True)]


def assert_records(sample, index, manifest):
    view, position = divmod(index, manifest.num_positions)
    assert type(sample.teacher_record) is np.ndarray
    assert np.array_equal(sample.teacher_record, payload_of(view, position, manifest.record_bytes - 8))
    assert sample.teacher_cache_id == manifest.identity


@pytest.mark.parametrize('num_workers', [0, 2])
def test_records_travel_with_the_data_samples(written, num_workers):
    root, folder = written
    manifest = TeacherCache(folder).manifest
    views = pickle.loads(pickle.dumps(build(root, folder)))
    order = list(reversed(range(24)))
    loader = DataLoader(views, sampler=order, batch_size=4, num_workers=num_workers, collate_fn=list)
    seen = [item['data_samples'] for batch in loader for item in batch]
    for index, sample in zip(order, seen, strict=True):
        assert_records(sample, index, manifest)
        assert 'view_mix' in sample


def test_moved_images_are_the_same(copies):
    root, folder = copies
    shutil.rmtree(root.parent / 'other', ignore_errors=True)
    views = build(root.rename(root.parent / 'other'), folder)
    assert 'teacher_record' in views[0]['data_samples']


def test_other_forms_of_the_same_settings_are_equal(written):
    build(*written, augments={**AUGMENTS, 'probs': None})
    build(*written, augments={'augments': tuple(AUGMENTS['augments'])}, pipeline=tuple(PIPELINE))


SCALE = [PIPELINE[0], dict(PIPELINE[1], scale=24), *PIPELINE[2:]]
SETTINGS = {
    'seed': (dict(seed=4), 'seed was 3 and is 4'),
    'views': (dict(num_views=3), 'num_views was 2 and is 3'),
    'no mixing': (dict(augments=None), r'augments was .* and is None'),
    'mixing': (
        dict(augments=dict(augments=[dict(type='Mixup', alpha=0.2), AUGMENTS['augments'][1]])),
        r'augments.augments\[0\].alpha was 0.8 and is 0.2',
    ),
    'pipeline': (dict(pipeline=SCALE), r'pipeline\[1\].scale was 32 and is 24'),
}


@pytest.mark.parametrize('name', SETTINGS)
def test_other_settings_are_named(written, name):
    root, folder = written
    changes, message = SETTINGS[name]
    with pytest.raises(CacheError, match=rf'dataset.cache=.* was made from other views: {message}\. Train with the config'):
        build(root, folder, **changes)


def test_changed_lists_of_images_are_named(copies):
    root, folder = copies
    shutil.copy(root / 'class0' / '0.jpg', root / 'class0' / '9.jpg')
    with pytest.raises(CacheError, match='the data set had 11 images and has 12: a class folder or images were added'):
        build(root, folder)
    (root / 'class0' / '0.jpg').unlink()
    with pytest.raises(CacheError, match='the list of image files is another one'):
        build(root, folder)
    shutil.rmtree(root / 'class3')
    with pytest.raises(CacheError, match='the data set had 11 images and has 8: a class folder'):
        build(root, folder)


def reencode(file):
    cv2.imwrite(str(file), cv2.imread(str(file)), [cv2.IMWRITE_JPEG_QUALITY, 60])


@pytest.mark.parametrize('num_workers', [0, 2])
def test_reencoded_picture_is_named(copies, num_workers):
    root, folder = copies
    file = root / 'class2' / '1.jpg'
    reencode(file)
    views = build(root, folder)
    loader = DataLoader(views, batch_size=1, num_workers=num_workers, collate_fn=list)
    batches = iter(loader)
    with pytest.raises(CacheError) as raised:
        list(batches)
    if num_workers:
        batches._shutdown_workers()  # The garbage collection would wait 5 s for each.
    message = one_line(raised.value)
    assert message.startswith(f'{file}: view 0 of this image is not the one whose teacher outputs are in {folder}')
    assert 'are those of the cache. So the file was changed since: restore it' in message


def test_other_versions_are_named(copies):
    root, folder = copies
    manifest = replace(Manifest.load(folder), versions={**versions(), 'Pillow': '9.9.0'})
    manifest.save(folder)
    views = build(root, folder)
    reencode(views.get_data_info(0)['img_path'])
    with pytest.raises(CacheError, match=rf'decode or augment images differ: Pillow 9.9.0 instead of {PIL.__version__}\.'):
        views[0]


def test_unusable_cache_is_refused_before_the_data_are_read(copies):
    root, folder = copies
    for shard in (1, 0):
        path = shard_path(folder, 1, shard)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CacheError, match=f'shard_0000{shard}.bin has .* bytes instead of'):
            build('no/such/folder', folder)
    replace(Manifest.load(folder), complete=False).save(folder)
    with pytest.raises(CacheError, match='making it was interrupted'):
        build('no/such/folder', folder)
    with pytest.raises(CacheError, match='it is no teacher cache'):
        build('no/such/folder', root)


def test_damaged_record_is_named(copies):
    root, folder = copies
    path = shard_path(folder, 0, 0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    views = build(root, folder)
    views[0]
    with pytest.raises(CacheError, match='is damaged: record 3'):
        views[3]


class RecordSamples(Hook):
    """Keep the data samples of each step."""

    def __init__(self):
        self.samples = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.samples.append(data_batch['data_samples'])


def test_training_reads_the_records_of_its_images(image_root, tmp_path, runner_scope):
    config = training_config(image_root, tmp_path / 'work', val_cfg=None, val_dataloader=None, val_evaluator=None)
    config.train_dataloader.num_workers = 2
    use_repeatable_views(config, num_views=2, augments=AUGMENTS)
    manifest = write_cache(tmp_path / 'cache', DATASETS.build(config.train_dataloader.dataset))
    config.train_dataloader.dataset.cache = str(tmp_path / 'cache')
    runner = Runner.from_cfg(config)
    record = RecordSamples()
    runner.register_hook(record)
    runner.train()
    sampler = runner.train_dataloader.sampler
    indices = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        indices += list(sampler)
    seen = [sample for samples in record.samples for sample in samples]
    for index, sample in zip(indices, seen, strict=True):
        assert_records(sample, index, manifest)
