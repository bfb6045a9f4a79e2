"""Make a teacher cache: what it holds for given trainings, and how its records are computed, written and checked."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmpretrain.registry import MODELS

from ..errors import raise_on_all_ranks
from ..teacher_cache.cache_check import CheckResult, check_records, choose_records
from ..teacher_cache.cache_writer import CacheWriter, choose_shard_size, unfinished_shards
from ..teacher_cache.canonical import first_difference
from ..teacher_cache.errors import CacheError
from ..teacher_cache.fingerprints import data_differences, data_fingerprint, version_differences, versions
from ..teacher_cache.formats import build_format
from ..teacher_cache.image_batches import load_images
from ..teacher_cache.manifest import Entry, Manifest, serves
from ..teacher_cache.record_files import TeacherCache
from ..teacher_cache.repeatable_views import RepeatableViews
from .basis_fitting import fit_bases
from .cache_plan import TeacherOutput, plan_outputs
from .cache_sources import CacheSource, build_teacher
from .teacher_encoder import TeacherEncoder, state_sha256
from .teacher_fingerprint import teacher_differences, teacher_fingerprint


@dataclass(frozen=True)
class CacheOptions:
    """Settings of a cache that are not those of the trainings.

    Attributes:
        num_views: Number of augmented views of the data set. Default: 10.
        seed: Seed of the views. Default: 0.
        dtype: Number format, ``'float16'`` or ``'float32'``. Default: ``'float16'``.
        full_tokens: Whether tokens are stored as they are, and not by a basis in int8. Default: False.
        rank: Directions of a basis. Default: 192.
        top_k: Number of logits that are stored. Default: None, all.
    """

    num_views: int = 10
    seed: int = 0
    dtype: str = 'float16'
    full_tokens: bool = False
    rank: int = 192
    top_k: int | None = None


class CacheMaker:
    """A teacher, images, and the cache that is made of them.

    Args:
        folder: Folder of the cache.
        sources: The trainings that share it.
        options: Settings of the cache.
        dataset: The views, without a cache.
        device: Device of the teacher.
        batch_size: Images of a batch of each rank.
        num_workers: Processes that read the images of a rank.

    Attributes:
        outputs: What is stored.
        entries: Where in a record, and how.

    Raises:
        CacheError: An output cannot be stored with these options.
        ConfigError: The teacher's weights cannot be loaded, or a loss cannot be computed from a cache.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[CacheSource],
        options: CacheOptions,
        dataset: RepeatableViews,
        device: torch.device,
        batch_size: int,
        num_workers: int,
    ) -> None:
        if dataset.group_size > 1 and batch_size % 2:
            raise CacheError(f'--batch-size {batch_size} must be even, because images are mixed in pairs')
        self.folder, self.sources, self.options = folder, sources, options
        self.dataset, self.batch_size, self.num_workers = dataset, batch_size, num_workers
        self.device = device
        self.preprocessor = MODELS.build(preprocessor_config(sources[0])).to(device)
        plan = plan_outputs([(source.objective, source.taps) for source in sources], options.full_tokens)
        self.outputs: list[TeacherOutput] = plan
        self.encoder = TeacherEncoder(build_teacher(sources, options.seed), self.outputs)
        self.entries, self._image_shape = self._lay_out()

    @property
    def _bases(self) -> dict[int, int]:
        """Ranks of the bases by number of the output."""
        return {
            number: entry.format['rank']
            for number, entry in enumerate(self.entries)
            if entry.format['type'] == 'BasisFormat'
        }

    def losses_of(self, entry: Entry) -> list[str]:
        """Names of the losses that a stored output is made for; none if it is for other trainings."""
        return next((output.losses for output in self.outputs if _key(output) == _key(entry)), [])

    def manifest(self, num_ranks: int) -> Manifest:
        """Return the manifest of the cache, without hashes of bases, which are not fitted.

        Args:
            num_ranks: Number of ranks that write it.
        """
        first, named = self.sources[0], [tap for source in self.sources for tap in source.taps.items()]
        # Without names of several paths: a training that leaves `taps` out would read another tap than it means.
        taps = {name: path for name, path in named if {other for key, other in named if key == name} == {path}}
        # Once more: the weights may have been downloaded since then.
        fingerprint = teacher_fingerprint(first.config.model.teacher, first.statistics)
        return Manifest(
            num_views=self.options.num_views,
            seed=self.options.seed,
            num_images=self.dataset.num_images,
            num_positions=self.dataset.num_positions,
            shard_size=choose_shard_size(self.dataset.num_positions, num_ranks),
            dtype=self.options.dtype,
            augments=self.dataset.augments,
            teacher={**fingerprint, 'state_sha256': state_sha256(self.encoder.teacher.model)},
            taps=taps,
            entries=self.entries,
            data=data_fingerprint(self.dataset.dataset_config, self.dataset.dataset),
            versions=versions(),
        )

    def stored_manifest(self, present: Manifest, complete: bool = False) -> Manifest | None:
        """Return the manifest in the folder if its cache is the one that is made here; None if there is none.

        Args:
            present: What :meth:`manifest` returned.
            complete: Whether the cache must be complete. Default: False.

        Raises:
            CacheError: The folder holds another cache, records of unknown origin or, if it must, none that is complete.
        """
        if complete:
            stored = TeacherCache(self.folder).manifest
            match_manifest(stored, present, self.folder, exactly=True)
        elif (self.folder / 'manifest.json').exists():
            stored = Manifest.load(self.folder)
            writes = not stored.complete or bool(unfinished_shards(self.folder, stored))
            match_manifest(stored, present, self.folder, exactly=writes, same_versions=writes)
        elif next(self.folder.glob('view_*'), None) is not None:
            raise CacheError(
                f'{self.folder} holds records without a manifest.json, so what they are of is not known. Use another --out, '
                'or delete the folder'
            )
        else:
            return None
        for entry in stored.entries:
            build_format(entry.format, self.folder)  # The file of a basis may be missing or another one.
        return stored

    def seconds_per_image(self) -> float:
        """Time the teacher and the encoding of generated images."""
        generator = torch.Generator().manual_seed(0)
        return self.encoder.seconds_per_image(
            torch.randn(self.batch_size, *self._image_shape, generator=generator).to(self.device)
        )

    def create(self, manifest: Manifest) -> Manifest:
        """Fit the bases, and write the manifest; to be called on every rank.

        Args:
            manifest: What :meth:`manifest` returned.

        Returns:
            The manifest with the bases.

        Raises:
            WriteError: The disk is full.
        """
        with raise_on_all_ranks():
            if is_main_process():
                bases = fit_bases(
                    self.folder,
                    self.encoder,
                    self._bases,
                    self.dataset,
                    self.preprocessor,
                    self.batch_size,
                    self.num_workers,
                )
                for number, settings in bases.items():
                    manifest.entries[number].format.update(settings)
                manifest.save(self.folder)  # Last: a folder with a manifest has its bases.
        return Manifest.load(self.folder)

    def fill(self, manifest: Manifest, report: Callable[[int, int], None]) -> None:
        """Write all records that are missing, and complete the manifest; to be called on every rank.

        Args:
            manifest: The manifest.
            report: See :meth:`CacheWriter.fill`.

        Raises:
            CacheError: A record cannot be made.
            WriteError: The disk is full.
        """
        self._use_formats(manifest)
        CacheWriter(
            self.folder, manifest, self.dataset, self.preprocessor, self.encoder, self.batch_size, self.num_workers
        ).fill(report)
        with raise_on_all_ranks():
            if is_main_process():
                replace(manifest, complete=True).save(self.folder)

    def check(self, count: int) -> CheckResult:
        """Recompute records of the complete cache; to be called on every rank.

        Args:
            count: How many.
        """
        cache = TeacherCache(self.folder)
        self._use_formats(cache.manifest)
        indices = choose_records(self.dataset, count, self.options.seed)
        return check_records(
            cache, self.dataset, self.preprocessor, self.encoder, indices, self.batch_size, self.num_workers
        )

    def _use_formats(self, manifest: Manifest) -> None:
        """Compute the outputs in the order and the formats of a manifest."""
        outputs = {_key(output): output for output in self.outputs}
        self.encoder.outputs = [outputs[_key(entry)] for entry in manifest.entries]
        self.encoder.formats = [build_format(entry.format, self.folder) for entry in manifest.entries]

    def _lay_out(self) -> tuple[list[Entry], tuple[int, ...]]:
        """The entries of a record, from the outputs for the first images, and the shape of an image."""
        (data,) = load_images(self.dataset, [range(min(2, self.dataset.num_positions))], 0)
        inputs = self.preprocessor(data, training=True)['inputs']
        entries: list[Entry] = []
        for number, (output, (tensor, grid)) in enumerate(zip(self.outputs, self.encoder.compute(inputs), strict=True)):
            if output.needs_basis(tensor):
                settings, size = self._basis_settings(number, *tensor.shape[1:])
            else:
                try:
                    form = output.format(tensor, self.options.dtype, self.options.top_k)
                except ValueError as error:
                    raise CacheError(f'{", ".join(output.losses)} on {output.tap}: {error}') from error
                self.encoder.formats[number] = form
                settings, size = form.settings, form.num_bytes
            offset = entries[-1].offset + entries[-1].num_bytes if entries else 0
            settings_of_view = output.tokenizer, output.merger
            entries.append(Entry(output.tap, *settings_of_view, output.content, settings, grid and list(grid), offset, size))
        return entries, tuple(inputs.shape[1:])

    def _basis_settings(self, number: int, num_tokens: int, num_channels: int) -> tuple[dict[str, Any], int]:
        rank = min(self.options.rank, num_channels)
        shape = [num_tokens, num_channels]
        return {'type': 'BasisFormat', 'shape': shape, 'basis': f'basis_{number}.npz', 'rank': rank}, num_tokens * rank


def preprocessor_config(source: CacheSource) -> dict[str, Any]:
    """Settings of the ``ViewPreprocessor`` of a training from the cache."""
    cached = source.cached
    for owner in (cached.model.student.model, cached.model, cached):
        if not isinstance(owner, str) and owner.get('data_preprocessor') is not None:
            return dict(owner['data_preprocessor'])
    return {'type': 'ViewPreprocessor'}


def match_manifest(stored: Manifest, present: Manifest, folder: Path, exactly: bool, same_versions: bool = False) -> None:
    """Check that the cache in a folder is the one that a command would make.

    Args:
        stored: The manifest in the folder.
        present: The manifest of the command, which may be run by another number of ranks.
        folder: The folder, for messages.
        exactly: Whether records will be computed. Otherwise the cache may hold more than the command would store.
        same_versions: Whether the packages that decode images must have the versions of the cache, so that those that are
            written now come out as those before. Default: False; training and ``--check`` compare the images themselves.

    Raises:
        CacheError: They differ; the message names the differences.
    """
    found = _teacher_differences(stored.teacher, present.teacher) + data_differences(stored.data, present.data)
    compared_otherwise = ('shard_size', 'teacher', 'data', 'taps', 'entries')
    found += stored.differences(replace(present, **{name: getattr(stored, name) for name in compared_otherwise}))
    if same_versions:
        found += version_differences(stored.versions)
    if found:
        raise CacheError(f'{folder} holds another cache: {"; ".join(found)}. Use another --out, or restore the setting')
    missing = [entry for entry in present.entries if not any(_serves(other, entry) for other in stored.entries)]
    if missing:
        raise CacheError(
            f'{folder} holds a cache without {"; ".join(map(_described, missing))}. Outputs cannot be added to a cache: '
            'make one for all configs at once (tools/cache_teacher.py CONFIG CONFIG ...) with another --out'
        )
    if exactly and {_key(entry) for entry in stored.entries} != {_key(entry) for entry in present.entries}:
        raise CacheError(
            f'{folder} holds a cache of more outputs than these configs read. Name all configs of the command that began it'
        )


def _key(output: TeacherOutput | Entry) -> str:
    """What identifies an output of the teacher."""
    return json.dumps([output.tap, output.tokenizer, output.merger, output.content], sort_keys=True)


def _teacher_differences(stored: dict, present: dict) -> list[str]:
    """Describe by what two teachers differ, also if only the rounding of their outputs does."""
    found = teacher_differences(stored, present)
    for name in ('dtype', 'autocast_dtype'):
        found.append(first_difference(stored[name], present[name], f'model.teacher.{name}'))
    if not any(found) and stored['state_sha256'] != present['state_sha256']:
        found.append("the teacher's weights are others, of the same settings")
    return [difference for difference in found if difference]


def _serves(stored: Entry, wanted: Entry) -> bool:
    """Whether a stored output can be read in place of another one."""
    if (stored.tap, stored.tokenizer, stored.merger) != (wanted.tap, wanted.tokenizer, wanted.merger):
        return False
    if stored.content != wanted.content:
        return serves(stored.content, wanted.content)
    # A basis that is not fitted yet has no hash, and its file may have another number.
    return {**wanted.format, 'basis': stored.format.get('basis')}.items() <= {'basis': None, **stored.format}.items()


def _described(entry: Entry) -> str:
    view = '' if entry.tokenizer is None else f', {entry.tokenizer["type"]} and {entry.merger["type"]}'
    return f'{entry.content} of {entry.tap}{view} as {entry.format}'
