"""The loop that fills a cache: its plan, going on after an interruption, its errors. The teacher is a linear layer."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from builders import PREPROCESSOR, leave_ranks, run_ranks, write_images
from mmpretrain.registry import MODELS
from torch import distributed

from serkd_mm.errors import UserError
from serkd_mm.teacher_cache import CacheError, Entry, Manifest, RepeatableViews, TeacherCache
from serkd_mm.teacher_cache.cache_check import check_records, choose_records, relative_difference
from serkd_mm.teacher_cache.cache_writer import (
    CacheWriter,
    choose_shard_size,
    missing_bytes,
    plan_batches,
    unfinished_shards,
)
from serkd_mm.teacher_cache.formats import DenseFormat, TopKFormat, TriangleFormat
from serkd_mm.teacher_cache.image_batches import load_images

AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
FORMAT = DenseFormat((24,), 'float32')


@pytest.mark.parametrize(
    ('num_positions', 'num_ranks', 'expected'),
    [
        (12, 1, 12),
        (12, 2, 6),
        (12, 4, 2),
        (13, 1, 14),
        (9, 4, 2),
        (1, 1, 2),
        (3, 8, 2),
        (1281168, 8, 65536),
        (100000, 8, 12500),
    ],
)
def test_shards_are_even_and_at_least_as_many_as_ranks(num_positions, num_ranks, expected):
    size = choose_shard_size(num_positions, num_ranks)
    assert size == expected
    assert size % 2 == 0
    assert -(-num_positions // size) >= min(num_ranks, -(-num_positions // 2))


@pytest.mark.parametrize('num_written', range(9))
def test_batches_are_the_same_wherever_a_shard_is_continued(num_written):
    manifest = build_manifest(num_positions=20, shard_size=8)
    whole = list(plan_batches(manifest, 1, 1, 0, batch_size=3))
    assert [list(batch.positions) for batch in whole] == [[8, 9, 10], [11, 12, 13], [14, 15]]
    assert list(whole[0].indices(20)) == [28, 29, 30]
    rest = list(plan_batches(manifest, 1, 1, num_written, batch_size=3))
    assert [batch.positions for batch in rest] == [batch.positions for batch in whole][len(whole) - len(rest) :]
    missing = [position for batch in rest for position in batch.positions[batch.num_written :]]
    assert missing == list(range(8 + num_written, 16))
    assert [list(batch.positions) for batch in plan_batches(manifest, 0, 2, 0, batch_size=3)] == [[16, 17, 18], [19]]


def build_manifest(num_positions=14, shard_size=6, num_views=2, num_images=13, augments=AUGMENTS):
    entry = Entry('head', None, None, 'logits', FORMAT.settings, None, 0, FORMAT.num_bytes)
    return Manifest(
        num_views=num_views,
        seed=3,
        num_images=num_images,
        num_positions=num_positions,
        shard_size=shard_size,
        dtype='float32',
        augments=augments,
        teacher={},
        taps={},
        entries=[entry],
        data={},
        versions={},
    )


def build_views(root, augments=AUGMENTS):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=16),
        dict(type='PackInputs'),
    ]
    dataset = dict(type='CustomDataset', data_root='', data_prefix=str(root), pipeline=pipeline)
    return RepeatableViews(dataset, num_views=2, seed=3, augments=augments)


class Encoder:
    """A linear layer, whose rounding depends on the batch; it fails in a batch of a given number."""

    def __init__(self, fails_at=None, scale=1.0):
        weight = torch.randn(24, 3 * 16 * 16, generator=torch.Generator().manual_seed(0))
        self.weight, self.fails_at, self.calls = weight * scale, fails_at, 0

    def __call__(self, inputs):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        return FORMAT.encode(inputs.flatten(1) @ self.weight.T)


def build_writer(folder, root, encode, num_workers=0, batch_size=4, augments=AUGMENTS):
    manifest = build_manifest(num_positions=14 if augments else 13, augments=augments)
    manifest.save(folder)
    preprocessor = MODELS.build(dict(PREPROCESSOR, type='ViewPreprocessor', to_onehot=True))
    return CacheWriter(folder, manifest, build_views(root, augments), preprocessor, encode, batch_size, num_workers)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob('view_*/*'))}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = write_images(tmp_path_factory.mktemp('writer'), per_class=3)
    assert cv2.imwrite(str(root / 'class1' / 'more.jpg'), np.zeros((20, 20, 3), np.uint8))
    return root


@pytest.fixture(scope='module')
def whole(root, tmp_path_factory):
    """A cache of 13 images in 2 views, which one process has written without an interruption."""
    folder = tmp_path_factory.mktemp('whole')
    reports = []
    build_writer(folder, root, Encoder()).fill(lambda *report: reports.append(report))
    assert reports[-1] == (28, 28)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    return folder


def test_every_image_has_its_record(whole, root):
    cache, encode = TeacherCache(whole, unfinished=True), Encoder()
    assert [path.name for path in sorted(whole.glob('view_00001/*'))] == [f'shard_0000{shard}.bin' for shard in range(3)]
    assert missing_bytes(whole, cache.manifest) == 0
    views = build_views(root)
    writer = build_writer(whole, root, encode)
    for index in (0, 13, 17, 27):
        first = index // 2 * 2
        (data,) = load_images(views, [range(first, first + 2)], 0)
        batch = writer.preprocessor(data, training=True)
        checksum, payload = cache.record(*divmod(index, 14))
        assert checksum == data['data_samples'][index - first].image_checksum
        expected = batch['inputs'].flatten(1) @ encode.weight.T
        torch.testing.assert_close(
            FORMAT.decode(torch.from_numpy(payload)[None]), expected[index - first][None], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize('fails_at', [1, 2, 3, 6])
def test_interrupted_cache_is_continued_bit_for_bit(fails_at, whole, root, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build_writer(tmp_path, root, Encoder(fails_at)).fill(lambda *_: None)
    manifest = build_manifest()
    assert 0 < missing_bytes(tmp_path, manifest) == (28 - sum(sizes_before(fails_at))) * manifest.record_bytes
    # A kill in the middle of a write, and before a full file got its final name.
    partial = next(iter(tmp_path.glob('view_*/*.partial')), None)
    if partial is not None:
        partial.write_bytes(partial.read_bytes()[:-30])
    for path in tmp_path.glob('view_00000/shard_00000.bin'):
        path.rename(path.with_suffix('.partial'))
    encode = Encoder()
    build_writer(tmp_path, root, encode).fill(lambda *_: None)
    assert files_of(tmp_path) == files_of(whole)
    assert encode.calls <= 12 - fails_at  # Of 10 batches; a record of one was cut off.
    assert unfinished_shards(tmp_path, manifest) == []


def sizes_before(batch):
    return [4, 2, 4, 2, 2, 4, 2, 4, 2, 2][: batch - 1]


def test_missing_files_are_written_anew_and_truncated_ones_are_named(whole, root, tmp_path):
    build_writer(tmp_path, root, Encoder()).fill(lambda *_: None)
    for name in ('view_00000/shard_00001.bin', 'view_00001/shard_00002.bin'):
        (tmp_path / name).unlink()
    assert unfinished_shards(tmp_path, build_manifest()) == [(0, 1), (1, 2)]
    build_writer(tmp_path, root, Encoder()).fill(lambda *_: None)
    assert files_of(tmp_path) == files_of(whole)
    truncated = tmp_path / 'view_00001' / 'shard_00000.bin'
    truncated.write_bytes(truncated.read_bytes()[:-1])
    with pytest.raises(CacheError, match=r'view_00001/shard_00000\.bin has 623 bytes instead of 624\. Delete this file'):
        build_writer(tmp_path, root, Encoder()).fill(lambda *_: None)


def test_output_that_cannot_be_stored_names_the_image(root, tmp_path):
    class NaNForBlack(Encoder):
        def __call__(self, inputs):
            values = inputs.flatten(1) @ self.weight.T
            return FORMAT.encode(torch.where(inputs.std(dim=(2, 3)).sum(dim=1, keepdim=True) < 1e-3, torch.nan, values))

    writer = build_writer(tmp_path, root, NaNForBlack(), augments=None)
    with pytest.raises(CacheError, match=r'class1/more\.jpg makes an output of the teacher that cannot be stored: .*NaN'):
        writer.fill(lambda *_: None)
    assert not list(tmp_path.glob('view_*/*.bin')) or unfinished_shards(tmp_path, build_manifest())


def test_images_of_different_sizes_are_named(root):
    views = build_views(root)
    views.dataset.pipeline.transforms.pop(1)
    with pytest.raises(CacheError, match=r'has the shape \(3, .* has \(3, .*: add a crop or a resize'):
        list(load_images(views, [range(14)], 0))


def test_odd_batches_of_pairs_are_refused(root, tmp_path):
    with pytest.raises(CacheError, match='--batch-size 3 must be even'):
        build_writer(tmp_path, root, Encoder(), batch_size=3)


def test_chosen_records_are_spread_over_all_views(root):
    views = build_views(root)
    chosen = choose_records(views, 7, seed=0)
    assert len(chosen) == len(set(chosen)) == 8
    assert sum(index < 14 for index in chosen) == 4
    assert all(one % 2 == 0 and two == one + 1 for one, two in zip(chosen[::2], chosen[1::2], strict=True))
    assert choose_records(views, 7, seed=1) != chosen == choose_records(views, 7, seed=0)
    assert choose_records(views, 1000, seed=0) == list(range(28))


def test_check_finds_other_values_and_other_images(whole, root, tmp_path):
    cache = TeacherCache(whole, unfinished=True)
    writer = build_writer(whole, root, Encoder())
    arguments = [cache, writer.dataset, writer.preprocessor]
    nearly = Encoder(scale=1 + 1e-6)  # As rounded otherwise, which batches of 14 instead of 4 are on some CPUs only.
    result = check_records(*arguments, nearly, choose_records(writer.dataset, 28, 0), batch_size=14, num_workers=0)
    assert (result.num_records, result.problems) == (28, [])
    assert 0 < result.largest[0] < 1e-5
    result = check_records(*arguments, Encoder(scale=1.01), [0, 1], batch_size=2, num_workers=0)
    assert result.largest == [pytest.approx(0.01, rel=0.01)]
    assert len(result.problems) == 2
    assert 'view 0, position 0 (' in result.problems[0]
    assert 'logits of head are off by 0.01, and rounding by 0.005' in result.problems[0]
    writer.dataset.seed = 4
    result = check_records(*arguments, Encoder(), [14, 15], batch_size=2, num_workers=0)
    assert 'view 1, position 0 (' in result.problems[0]
    assert 'the augmented image is another one' in result.problems[0]


def test_differences_that_losses_do_not_see_are_none():
    tokens = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(0))
    rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))
    form = TriangleFormat(9, 16)
    one, two, other = (torch.from_numpy(form.encode(side)) for side in (tokens, 3 * tokens @ rotation + 1, tokens.flip(0)))
    assert relative_difference(form, one, two).max() < 1e-3
    assert relative_difference(form, one, other).max() > 0.05
    form = TopKFormat(10, 2)
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    one, two = (torch.from_numpy(form.encode(side)) for side in (logits, logits + 5))
    assert relative_difference(form, one, two).max() < 1e-3


@pytest.mark.slow
def test_ranks_write_the_same_files_and_fail_together(whole, root, tmp_path):
    run_ranks(__file__, 2, tmp_path, root)
    assert files_of(tmp_path / 'together') == files_of(whole)
    messages = json.loads((tmp_path / 'messages.json').read_text())
    assert messages[0] == messages[1]
    assert 'could not be read' in messages[0]
    assert files_of(tmp_path / 'failed') == files_of(whole)


def main(folder, root, rank):
    """One of two ranks: fill a cache; then one with an image that cannot be read by one rank, and after it is mended."""
    folder = Path(folder)
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=int(rank), world_size=2)
    reports = []
    for name in ('together', 'failed'):
        (folder / name).mkdir(exist_ok=True)
    build_writer(folder / 'together', root, Encoder(), num_workers=1).fill(lambda *report: reports.append(report))
    assert reports[-1] == (28, 28)
    writer = build_writer(folder / 'failed', root, Encoder())
    load = writer.dataset.dataset.pipeline

    def fail(data):
        if rank == '1':
            raise UserError(f'{data["img_path"]} could not be read')
        return load(data)

    writer.dataset.dataset.pipeline = fail
    message = ''
    try:
        writer.fill(lambda *_: None)
    except UserError as error:
        message = str(error)
    gathered = [None, None]
    distributed.all_gather_object(gathered, message)
    (folder / 'messages.json').write_text(json.dumps(gathered))
    writer.dataset.dataset.pipeline = load
    writer.fill(lambda *_: None)
    cache = TeacherCache(folder / 'failed', unfinished=True)
    chosen = choose_records(writer.dataset, 28, seed=0)
    result = check_records(cache, writer.dataset, writer.preprocessor, Encoder(scale=2 if rank == '1' else 1), chosen, 6, 0)
    assert (result.num_records, len(result.problems)) == (28, 12)  # Two of five batches of rank 1, on both ranks.
    leave_ranks()


if __name__ == '__main__':
    main(*sys.argv[1:])
