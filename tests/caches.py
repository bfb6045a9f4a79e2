"""Small teacher caches: of random records, and of a teacher's outputs for given images."""

from pathlib import Path

import numpy as np
import torch
from builders import PREPROCESSOR
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import Dataset

from serkd_mm.distillers.cache_plan import plan_outputs
from serkd_mm.distillers.input_statistics import InputStatistics
from serkd_mm.distillers.teacher_fingerprint import teacher_fingerprint
from serkd_mm.teacher_cache import Entry, Manifest, ShardWriter, TeacherCache
from serkd_mm.teacher_cache.formats import BasisFormat, MeanFormat, TriangleFormat
from serkd_mm.teacher_cache.token_basis import fit_basis
from serkd_mm.teacher_cache.view_records import set_record

VIEW_PREPROCESSOR = dict(PREPROCESSOR, type='ViewPreprocessor')


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


def write_teacher_cache(
    folder: Path, model: nn.Module, inputs: torch.Tensor, config: dict, dtype='float32', full=True, rank=4, top_k=None
) -> Manifest:
    """Write a cache of one view with the outputs of a distiller's teacher for ``inputs``.

    Args:
        folder: The folder.
        model: A distiller with its teacher.
        inputs: Preprocessed images ``(B, 3, H, W)``, an even number.
        config: The settings ``model.teacher``.
        dtype: Number format.
        full: Whether tokens are stored as they are.
        rank: Directions of a basis.
        top_k: Number of logits; None stores all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = model.teacher.taps.paths
    features = {paths[tap]: feature for tap, feature in model.teacher(inputs).items()}
    entries, payloads = [], []
    for number, output in enumerate(plan_outputs([(model.distill, paths)], full)):
        tensor, grid = output.compute(features)
        form = output.format(tensor, dtype, top_k)
        if output.content == 'tokens':
            file = folder / f'basis_{number}.npz'
            fit_basis(tensor.flatten(0, 1), rank).save(file)
            form = BasisFormat(tuple(tensor.shape[1:]), file)
        offset = sum(entry.num_bytes for entry in entries)
        content = (output.content, form.settings, grid and list(grid), offset, form.num_bytes)
        entries.append(Entry(output.tap, output.tokenizer, output.merger, *content))
        payloads.append(form.encode(tensor))
    statistics = InputStatistics.from_preprocessor(model.data_preprocessor)
    manifest = Manifest(
        num_views=1,
        seed=0,
        num_images=len(inputs),
        num_positions=len(inputs),
        shard_size=len(inputs),
        dtype=dtype,
        augments=None,
        teacher=teacher_fingerprint(config, statistics),
        taps=paths,
        entries=entries,
        data={},
        versions={},
        complete=True,
    )
    writer = ShardWriter(folder, manifest, 0, 0)
    writer.append(np.zeros(len(inputs), np.uint32), np.concatenate(payloads, axis=1))
    writer.finish()
    manifest.save(folder)
    return manifest


def samples_with_records(folder: Path, samples: list[DataSample]) -> list[DataSample]:
    """Give each sample the record of its position, as the data set does."""
    cache = TeacherCache(folder)
    for position, sample in enumerate(samples):
        set_record(sample, cache.record(0, position)[1], cache.manifest.identity)
    return samples
