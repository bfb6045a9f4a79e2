"""Attempts to mislead a teacher cache: each is an error that names the cause, from the training or from the tool."""

import resource
import shutil

import cv2
import pytest
from builders import write_images
from cache_tool import cache_teacher, records_of, save_teacher, train, write_config

from serkd_mm.errors import UserError
from serkd_mm.fileio.atomic_backend import WriteError
from serkd_mm.teacher_cache import CacheError

pytestmark = [pytest.mark.usefixtures('runner_scope'), pytest.mark.slow]

RELATIONS = ('loss_kd', 'loss_rd', 'loss_ra')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=32),
    dict(type='RandomFlip', prob=0.25),
    dict(type='PackInputs'),
]


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """A folder with images, a teacher, a config and its cache of 2 views."""
    folder = tmp_path_factory.mktemp('attempts')
    root = write_images(folder / 'images', per_class=3)
    write_config(folder / 'config.py', root, save_teacher(folder / 'teacher.pth'), RELATIONS)
    with pytest.MonkeyPatch.context() as monkeypatch:
        cache_teacher(monkeypatch, folder / 'config.py', '--out', folder / 'cache', '--views', 2)
    return folder


@pytest.fixture
def place(original, tmp_path):
    """A copy of it that a test may change; configs name the original's files."""
    for name in ('images', 'cache'):
        shutil.copytree(original / name, tmp_path / name)
    for name in ('config.py', 'cache/train.py'):
        text = (original / name).read_text().replace(str(original), str(tmp_path))
        (tmp_path / name).write_text(text)
    shutil.copy(original / 'teacher.pth', tmp_path / 'teacher.pth')
    return tmp_path


def encode_again(place):
    image = place / 'images' / 'class2' / '1.jpg'
    assert cv2.imwrite(str(image), cv2.imread(str(image)), [cv2.IMWRITE_JPEG_QUALITY, 50])


def remove_class(place):
    shutil.rmtree(place / 'images' / 'class3')


def save_other_weights(place):
    save_teacher(place / 'teacher.pth', seed=8)


def truncate(place):
    path = place / 'cache' / 'view_00001' / 'shard_00000.bin'
    path.write_bytes(path.read_bytes()[:-1])


def damage(place):
    path = place / 'cache' / 'view_00000' / 'shard_00000.bin'
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def interrupt(place):
    path = place / 'cache' / 'manifest.json'
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))


def interrupt_with_other_versions(place):
    interrupt(place)
    path = place / 'cache' / 'manifest.json'
    path.write_text(path.read_text().replace('"Pillow": "', '"Pillow": "0.'))


def nothing(place):
    """The settings are changed instead."""


TRAININGS = {
    'another pipeline': (
        nothing,
        {'train_dataloader.dataset.dataset.pipeline': PIPELINE},
        r'pipeline\[2\]\.prob was 0\.5 and is 0\.25',
    ),
    'another seed': (nothing, {'train_dataloader.dataset.seed': 1}, r'seed was 0 and is 1'),
    'another number of views': (nothing, {'train_dataloader.dataset.num_views': 3}, r'num_views was 2 and is 3'),
    'one re-encoded picture': (encode_again, {}, r'images/class2/1\.jpg'),
    'a removed class': (
        remove_class,
        {},
        r'had 12 images and has 9: a class folder or images were added, removed or renamed',
    ),
    'other weights of the same path': (save_other_weights, {}, r'teacher\.pth.* holds other weights'),
    'another model': (
        nothing,
        {'model.teacher.model.backbone.final_norm': True},
        r'model\.teacher\.model\.backbone\.final_norm was False and is True',
    ),
    'another input size': (nothing, {'model.teacher.input_size': 64}, r'model\.teacher\.input_size was None'),
    'a truncated record file': (truncate, {}, r'view_00001/shard_00000\.bin has \d+ bytes instead of \d+'),
    'a damaged record': (damage, {}, r'view_00000/shard_00000\.bin is damaged: record 0'),
    'an unfinished cache': (interrupt, {}, r'is not complete: making it was interrupted'),
    'a loss that it does not hold': (
        nothing,
        {'model.losses.loss_feat': dict(type='FeatureL2Loss', on='tokens')},
        r'model\.losses\.loss_feat \(on .tokens.\) reads tokens of .* does not hold',
    ),
    'no cache': (nothing, dict.fromkeys(('model.teacher.cache', 'train_dataloader.dataset.cache'), 'nowhere'), r'nowhere'),
}


@pytest.mark.parametrize(('prepare', 'changes', 'message'), TRAININGS.values(), ids=TRAININGS)
def test_training_from_what_is_not_the_cache_of_its_config(prepare, changes, message, place):
    prepare(place)
    with pytest.raises(UserError, match=message):
        train(
            place / 'cache' / 'train.py',
            place / 'work',
            **{'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None},
            **changes,
        )
    assert not list((place / 'work').glob('*.pth'))


COMMANDS = {
    'another pipeline': (
        nothing,
        ['--cfg-options', 'train_dataloader.dataset.pipeline.2.prob=0.25'],
        r'prob was 0\.5 and is',
    ),
    'another seed': (nothing, ['--seed', '1'], r'seed was 0 and is 1'),
    'another number of views': (nothing, ['--views', '3'], r'num_views was 2 and is 3'),
    'another number format': (nothing, ['--dtype', 'float32'], r"dtype was 'float16' and is 'float32'"),
    'fewer logits': (nothing, ['--top-k', '2'], r'holds a cache without logits of head as .*TopKFormat'),
    'a removed class': (remove_class, [], r'had 12 images and has 9'),
    'other weights of the same path': (save_other_weights, [], r'teacher\.pth.* holds other weights'),
    'another precision': (nothing, ['--amp'], r"autocast_dtype was None and is 'bfloat16'"),
    'other packages': (interrupt_with_other_versions, [], r'Pillow 0\.[\d.]+ instead of'),
    'a truncated record file': (truncate, [], r'view_00001/shard_00000\.bin has \d+ bytes instead of \d+. Delete this file'),
    'a check of a re-encoded picture': (encode_again, ['--check', '24'], r'images/class2/1\.jpg\): the augmented image is'),
    'a check of a damaged record': (damage, ['--check', '24'], r'shard_00000\.bin is damaged: record 0'),
    'a check of an unfinished cache': (interrupt, ['--check', '1'], r'is not complete'),
    'a loss that it does not hold': (
        nothing,
        ['--cfg-options', 'model.losses.loss_feat.type=FeatureL2Loss', 'model.losses.loss_feat.on=tokens'],
        r'without tokens of .* Outputs cannot be added to a cache',
    ),
}


@pytest.mark.parametrize(('prepare', 'options', 'message'), COMMANDS.values(), ids=COMMANDS)
def test_going_on_with_another_cache(prepare, options, message, place, monkeypatch):
    prepare(place)
    before = records_of(place / 'cache'), (place / 'cache' / 'manifest.json').read_bytes()
    with pytest.raises(UserError, match=message):
        cache_teacher(monkeypatch, place / 'config.py', '--out', place / 'cache', '--views', 2, *options)
    assert (records_of(place / 'cache'), (place / 'cache' / 'manifest.json').read_bytes()) == before


def test_records_without_a_manifest(place, monkeypatch):
    (place / 'cache' / 'manifest.json').unlink()
    with pytest.raises(CacheError, match=r'holds records without a manifest\.json'):
        cache_teacher(monkeypatch, place / 'config.py', '--out', place / 'cache', '--views', 2)


def test_cache_of_another_config(place, monkeypatch):
    write_config(place / 'other.py', place / 'images', place / 'teacher.pth', ('loss_kd',))
    cache_teacher(monkeypatch, place / 'other.py', '--out', place / 'other', '--views', 2)
    caches = {name: str(place / 'other') for name in ('model.teacher.cache', 'train_dataloader.dataset.cache')}
    with pytest.raises(UserError, match=r'loss_r[ad] .*reads relations of .* does not hold'):
        train(place / 'cache' / 'train.py', place / 'work', **caches)
    assert not list((place / 'work').glob('*.pth'))


def test_full_disk_names_the_file_and_the_cache_is_continued(place, monkeypatch):
    config = write_config(place / 'tokens.py', place / 'images', place / 'teacher.pth')
    arguments = [config, '--out', place / 'full', '--views', 2, '--dtype', 'float32', '--tokens', 'full', '--batch-size', 4]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Reading a config copies it. A shard has 19 kB.
    resource.setrlimit(resource.RLIMIT_FSIZE, (config.stat().st_size + 1000, hard))
    try:
        with pytest.raises(
            WriteError, match=r'full/view_00000/shard_00000\.partial could not be written: File too large.*same'
        ):
            cache_teacher(monkeypatch, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(UserError, match='is not complete'):
        cache_teacher(monkeypatch, *arguments, '--check', 1)
    cache_teacher(monkeypatch, *arguments)
    cache_teacher(monkeypatch, *arguments, '--check', 24)
