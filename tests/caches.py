"""Small teacher caches of random records."""

import numpy as np
from torch.utils.data import Dataset

from serkd_mm.teacher_cache import Entry, Manifest, ShardWriter
from serkd_mm.teacher_cache.formats import MeanFormat, TriangleFormat


def build_manifest(**changes):
    """Return the manifest of 10 positions in shards of 4, whose records hold relations and a mean."""
    formats = [('relations', TriangleFormat(9, 16)), ('mean', MeanFormat(16))]
    entries, offset = [], 0
    for content, kind in formats:
        source = dict(tap='backbone', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger'))
        stored = dict(format=kind.settings, grid=[3, 3], offset=offset, num_bytes=kind.num_bytes)
        entries.append(Entry(**source, content=content, **stored))
        offset += kind.num_bytes
    settings = dict(
        num_views=3,
        seed=0,
        num_images=9,
        num_positions=10,
        shard_size=4,
        dtype='float16',
        augments=dict(augments=[dict(type='Mixup', alpha=0.8)], probs=None),
        teacher=dict(model=dict(type='ImageClassifier', scale=(3, 4)), state_sha256='a'),
        taps=dict(patches='backbone'),
        entries=entries,
        data=dict(num_images=9, files='b', pipelines=[[dict(type='Resize', scale=(32, 32))]]),
        versions=dict(pillow='1'),
    )
    return Manifest(**{**settings, **changes})


def random_records(manifest, count, seed=0):
    """Return image checksums and payloads of ``count`` records."""
    rng = np.random.default_rng(seed)
    payloads = rng.integers(0, 256, (count, manifest.record_bytes - 8), dtype=np.uint8)
    return rng.integers(0, 2**32, count, dtype=np.uint32), payloads


def write_cache(folder, manifest=None, complete=True):
    """Write a cache; the records of view v are those of seed v."""
    manifest = manifest or build_manifest(complete=complete)
    for view in range(manifest.num_views):
        checksums, payloads = random_records(manifest, manifest.num_positions, seed=view)
        for shard in range(manifest.num_shards):
            part = slice(shard * manifest.shard_size, (shard + 1) * manifest.shard_size)
            writer = ShardWriter(folder, manifest, view, shard)
            writer.append(checksums[part], payloads[part])
            writer.finish()
    manifest.save(folder)
    return manifest


class Records(Dataset):
    """All records of a cache, and the number of files that are open after each."""

    def __init__(self, cache):
        self.cache = cache

    def __len__(self):
        return self.cache.manifest.num_views * self.cache.manifest.num_positions

    def __getitem__(self, index):
        checksum, payload = self.cache.record(*divmod(index, self.cache.manifest.num_positions))
        return checksum, payload, len(self.cache._shards)
