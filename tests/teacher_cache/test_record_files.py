"""Record files: what is written survives kills, power failures and full disks; what is damaged is never read."""

import multiprocessing
import os
import pickle
import random
import resource
import signal
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import in_process
from caches import Records, build_manifest, random_records, write_cache
from torch.utils.data import DataLoader

from serkd_mm.fileio import WriteError
from serkd_mm.teacher_cache import CacheError, ShardWriter, TeacherCache
from serkd_mm.teacher_cache.formats import MeanFormat, TriangleFormat
from serkd_mm.teacher_cache.record_files import partial_path, shard_path


def test_records_are_read_as_they_were_written(tmp_path):
    manifest = write_cache(tmp_path)
    cache = TeacherCache(tmp_path)
    assert cache.folder == tmp_path
    assert cache.manifest.identity == manifest.identity
    for view in (2, 0, 1):
        checksums, payloads = random_records(manifest, 10, seed=view)
        for position in range(10):
            checksum, payload = cache.record(view, position)
            assert checksum == checksums[position]
            assert np.array_equal(payload, payloads[position])
            payload[:] = 0  # A copy.
            assert np.array_equal(cache.record(view, position)[1], payloads[position])
    assert [str(kind) for kind in cache.formats] == [str(TriangleFormat(9, 16)), str(MeanFormat(16))]
    assert cache.formats is cache.formats
    for view, position in ((3, 0), (0, 10), (-1, 0), (0, -1)):
        with pytest.raises(IndexError, match=f'no record of view {view}, position {position}'):
            cache.record(view, position)


def test_layout_of_a_record(tmp_path):
    kind = TriangleFormat(49, 768)
    entry = replace(build_manifest().entries[0], format=kind.settings, offset=0, num_bytes=kind.num_bytes)
    manifest = write_cache(tmp_path, build_manifest(entries=[entry], complete=True))
    content = (tmp_path / 'view_00001' / 'shard_00002.bin').read_bytes()
    checksums, payloads = random_records(manifest, 10, seed=1)
    expected = [
        int(checksums[position]).to_bytes(4, 'little') + zlib.crc32(payload).to_bytes(4, 'little') + payload
        for position, payload in ((number, payloads[number].tobytes()) for number in (8, 9))
    ]
    assert len(expected[0]) == 8 + 2352
    assert content == b''.join(expected)


def continue_writing(folder, manifest, checksums, payloads, expected):
    """Write the rest of shard 0 of view 0, of which ``expected`` records must be left, and compare the file."""
    writer = ShardWriter(folder, manifest, 0, 0)
    assert writer.num_written == expected
    writer.append(checksums[expected:], payloads[expected:])
    writer.finish()
    assert not partial_path(folder, 0, 0).exists()
    whole = folder / 'whole'
    if not whole.exists():
        other = ShardWriter(whole, manifest, 0, 0)
        other.append(checksums, payloads)
        other.finish()
    assert shard_path(folder, 0, 0).read_bytes() == shard_path(whole, 0, 0).read_bytes()


def unfinished(folder, manifest, count):
    """Write the first ``count`` of the records of a shard; return the file, and all records."""
    checksums, payloads = random_records(manifest, manifest.shard_length(0))
    writer = ShardWriter(folder, manifest, 0, 0)
    writer.append(checksums[:count], payloads[:count])
    writer.close()
    return partial_path(folder, 0, 0), checksums, payloads


def cut_within_a_record(file, size):
    os.truncate(file, 5 * size + 17)


def cut_within_a_header(file, size):
    os.truncate(file, 5 * size + 3)


def zero_the_end(file, size):
    content = file.read_bytes()
    file.write_bytes(content[: 5 * size + 40].ljust(len(content), b'\0'))


def append_zero_pages(file, size):
    content = file.read_bytes()
    file.write_bytes(content[: 5 * size].ljust(8192, b'\0'))


def zero_a_page_in_the_middle(file, size):
    content = bytearray(file.read_bytes())
    content[5 * size + 2 : 6 * size] = bytes(size - 2)
    file.write_bytes(content)


def flip_a_bit(file, size):
    content = bytearray(file.read_bytes())
    content[5 * size + 50] ^= 4
    file.write_bytes(content)


DAMAGE = [
    cut_within_a_record,
    cut_within_a_header,
    zero_the_end,
    append_zero_pages,
    zero_a_page_in_the_middle,
    flip_a_bit,
]


@pytest.mark.parametrize('damage', DAMAGE)
def test_unfinished_file_is_continued_after_its_last_good_record(tmp_path, damage):
    manifest = build_manifest(num_positions=20, shard_size=20)
    file, checksums, payloads = unfinished(tmp_path, manifest, 9)
    damage(file, manifest.record_bytes)
    continue_writing(tmp_path, manifest, checksums, payloads, expected=5)


def test_records_after_the_end_of_a_shard_are_removed(tmp_path):
    manifest = build_manifest(num_positions=20, shard_size=20)
    file, checksums, payloads = unfinished(tmp_path, manifest, 20)
    file.write_bytes(file.read_bytes() * 2)
    continue_writing(tmp_path, manifest, checksums, payloads, expected=20)


class SlowFile:
    """A file whose system writes little at a time, so that kills fall into the middle of a record."""

    def __init__(self, file):
        self.seek, self._write = file.seek, file.write

    def write(self, content):
        time.sleep(1e-4)
        return self._write(content[:50])


def test_kills_in_the_middle_of_an_append_keep_all_records_before(tmp_path):
    manifest = build_manifest(num_positions=20_000, shard_size=20_000)
    checksums, payloads = random_records(manifest, 20_000)
    rng, in_the_middle, before = random.Random(0), 0, 0

    def write():
        writer = ShardWriter(tmp_path, manifest, 0, 0)
        writer._file = SlowFile(writer._file)
        for first in range(writer.num_written, 20_000, 50):
            writer.append(checksums[first : first + 50], payloads[first : first + 50])

    for _ in range(15):
        ShardWriter(tmp_path, manifest, 0, 0).close()
        process = multiprocessing.get_context('fork').Process(target=write)
        process.start()
        time.sleep(0.05 + rng.random() / 30)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        records, rest = divmod(partial_path(tmp_path, 0, 0).stat().st_size, manifest.record_bytes)
        assert records >= before
        in_the_middle, before = in_the_middle + (rest > 0), records
    assert in_the_middle > 3
    continue_writing(tmp_path, manifest, checksums, payloads, expected=records)


@pytest.mark.parametrize('same_process', [True, False])
def test_full_disk_is_named_and_writing_continues_when_there_is_room(tmp_path, same_process):
    manifest = build_manifest(num_positions=20, shard_size=20)
    checksums, payloads = random_records(manifest, 20)
    limit = 5 * manifest.record_bytes + 30
    message = (
        rf'^{partial_path(tmp_path, 0, 0)} could not be written: File too large. .* Make room or raise the limit, and run '
    )

    def exceed_the_limit():
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        writer = ShardWriter(tmp_path, manifest, 0, 0)
        writer.append(checksums[:4], payloads[:4])
        with pytest.raises(WriteError, match=message):
            writer.append(checksums[4:12], payloads[4:12])
        assert writer.num_written == 4
        if same_process:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            writer.append(checksums[4:12], payloads[4:12])

    assert in_process(exceed_the_limit) == 0
    continue_writing(tmp_path, manifest, checksums, payloads, expected=12 if same_process else 5)


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'view_00000').touch()
    with pytest.raises(WriteError, match=r'view_00000/shard_00000.partial could not be written: File exists'):
        ShardWriter(tmp_path, build_manifest(), 0, 0)


def test_writer_refuses_what_does_not_fit(tmp_path):
    manifest = build_manifest()
    checksums, payloads = random_records(manifest, 5)
    writer = ShardWriter(tmp_path, manifest, 0, 0)
    with pytest.raises(ValueError, match=r'payloads must be uint8 \(5, 104\), but got uint8 \(5, 103\)'):
        writer.append(checksums, payloads[:, :-1])
    with pytest.raises(ValueError, match=r'shard_00000.bin holds 4 records, 0 are written'):
        writer.append(checksums, payloads)
    with pytest.raises(ValueError, match=r'shard_00000.bin: 0 of 4 records are written'):
        writer.finish()
    writer.append(checksums[:4], payloads[:4])
    writer.finish()
    again = ShardWriter(tmp_path, manifest, 0, 0)
    assert again.num_written == again.num_records == 4
    again.finish()


def test_unfinished_cache_is_refused_for_training(tmp_path):
    write_cache(tmp_path, complete=False)
    with pytest.raises(CacheError, match=r'not complete: making it was interrupted. Run the same tools/cache_teacher'):
        TeacherCache(tmp_path)
    shard_path(tmp_path, 0, 0).unlink()
    cache = TeacherCache(tmp_path, unfinished=True)
    assert cache.record(0, 4)[0] == random_records(cache.manifest, 10)[0][4]
    with pytest.raises(CacheError, match=r'view_00000/shard_00000.bin is missing'):
        cache.record(0, 3)


@pytest.mark.parametrize('when', ['before', 'after'])
def test_missing_and_truncated_shards_are_named(tmp_path, when):
    manifest = write_cache(tmp_path)
    cache = TeacherCache(tmp_path)
    file = shard_path(tmp_path, 1, 2)

    def read():
        return (TeacherCache(tmp_path) if when == 'before' else cache).record(1, 9)

    size = 2 * manifest.record_bytes
    os.truncate(file, size - 1)
    with pytest.raises(CacheError, match=rf'{file} has {size - 1} bytes instead of {size}. .* delete it and run the same '):
        read()
    file.unlink()
    with pytest.raises(CacheError, match=rf'{file} is missing. .*, or run the same tools/cache_teacher.py command again'):
        read()


def test_flipped_bit_is_never_read(tmp_path):
    manifest = write_cache(tmp_path)
    file = shard_path(tmp_path, 1, 1)
    content = bytearray(file.read_bytes())
    content[2 * manifest.record_bytes + 20] ^= 1
    file.write_bytes(content)
    cache = TeacherCache(tmp_path)
    with pytest.raises(CacheError, match=rf'{file} is damaged: record 2 does not have its checksum. Delete this file '):
        cache.record(1, 6)
    assert cache.record(1, 7)[0] == random_records(manifest, 10, seed=1)[0][7]


def mapped_files(folder):
    """Files in a folder that this process has mapped."""
    lines = Path('/proc/self/maps').read_text().splitlines()
    return sorted({line.split()[-1] for line in lines if str(folder) in line})


@pytest.mark.parametrize('start', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_workers_read_the_same_records(tmp_path, start):
    manifest = write_cache(tmp_path)
    cache = TeacherCache(tmp_path)
    cache.record(0, 0)  # Opened before the workers start.
    assert cache.formats
    loader = DataLoader(Records(cache), batch_size=5, num_workers=2, multiprocessing_context=start)
    checksums, payloads, num_open = (torch.cat(parts) for parts in zip(*loader, strict=True))
    expected = [random_records(manifest, 10, seed=view) for view in range(3)]
    assert checksums.tolist() == np.concatenate([part for part, _ in expected]).tolist()
    assert np.array_equal(payloads, np.concatenate([part for _, part in expected]))
    assert num_open.max() <= manifest.num_shards


def test_only_the_shards_of_one_view_stay_open_and_none_is_pickled(tmp_path):
    write_cache(tmp_path)
    cache = TeacherCache(tmp_path)
    for view in range(3):
        for position in range(10):
            cache.record(view, position)
    assert mapped_files(tmp_path) == [str(shard_path(tmp_path, 2, shard)) for shard in range(3)]
    assert len(pickle.dumps(cache)) < 5000
    copied = pickle.loads(pickle.dumps(cache))
    assert copied.record(1, 3)[0] == cache.record(1, 3)[0]
