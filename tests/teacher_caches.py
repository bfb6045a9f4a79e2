"""Caches of a teacher's outputs for given images, written without a data set."""

from pathlib import Path

import numpy as np
import torch
from builders import PREPROCESSOR
from mmpretrain.structures import DataSample
from torch import nn

from serkd_mm.distillers.cache_plan import plan_outputs
from serkd_mm.distillers.input_statistics import InputStatistics
from serkd_mm.distillers.teacher_fingerprint import teacher_fingerprint
from serkd_mm.teacher_cache import Entry, Manifest, ShardWriter, TeacherCache
from serkd_mm.teacher_cache.formats import BasisFormat
from serkd_mm.teacher_cache.token_basis import fit_basis

VIEW_PREPROCESSOR = dict(PREPROCESSOR, type='ViewPreprocessor')


def write_cache(
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
        sample.set_field(cache.record(0, position)[1], 'teacher_record', field_type='metainfo')
        sample.set_field(cache.manifest.identity, 'teacher_cache_id', field_type='metainfo')
    return samples
