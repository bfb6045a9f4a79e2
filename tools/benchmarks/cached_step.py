"""The training step from a cache of the teacher's outputs, for training_step.py: pictures, cache and records."""

import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import machine
import numpy as np
import torch
from PIL import Image

NUM_BATCHES = 4
CONFIG = """
_base_ = '{base}'
model = dict(teacher=dict(checkpoint=None, allow_random_teacher=True))
pictures = dict(_delete_=True, type='CustomDataset', data_prefix='{folder}', pipeline=_base_.train_pipeline)
train_dataloader = dict(dataset=pictures)
"""


def make_cache(folder: Path, base: Path, batch: int) -> None:
    """Write generated pictures, and a cache of one view of the outputs of a random teacher.

    Args:
        folder: Folder of both: ``pictures`` and ``cache``.
        base: A distillation config.
        batch: Images of a batch.
    """
    generator = np.random.default_rng(0)
    for number in range(NUM_BATCHES * batch):
        path = folder / 'pictures' / f'class{number % 2}' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (224, 224, 3), np.uint8)).save(path)
    config = folder / 'pictures.py'
    config.write_text(CONFIG.format(base=base, folder=folder / 'pictures'))
    command = [sys.executable, machine.ROOT / 'tools' / 'cache_teacher.py', config, '--out', folder / 'cache']
    command += ['--views', '1', '--num-workers', '0', '--batch-size', batch]
    subprocess.run(list(map(str, command)), check=True, cwd=machine.ROOT, stdout=subprocess.DEVNULL)


def with_records(step: Callable, folder: Path, device: str, batch: int) -> Callable:
    """Return a function that reads the records of a batch from the disk and calls a training step with its loaded images."""
    from mmengine.config import Config  # noqa: PLC0415 (a process imports only what it measures)
    from mmpretrain.registry import DATASETS  # noqa: PLC0415
    from mmpretrain.structures import DataSample  # noqa: PLC0415

    from serkd_mm.teacher_cache import TeacherCache  # noqa: PLC0415
    from serkd_mm.teacher_cache.view_records import set_record  # noqa: PLC0415

    settings = Config.fromfile(folder / 'cache' / 'train.py').train_dataloader.dataset
    settings.pop('cache')  # Only the records are read in a step, not the pictures.
    cache, dataset = TeacherCache(folder / 'cache'), DATASETS.build(settings)
    loaded = [dataset[position] for position in range(NUM_BATCHES * batch)]
    identity = cache.manifest.identity
    positions = cycle([range(first, first + batch) for first in range(0, len(loaded), batch)])

    def run() -> None:
        images, samples = [], []
        for position in next(positions):
            sample = DataSample(metainfo=dict(loaded[position]['data_samples'].metainfo))
            sample.set_gt_label(loaded[position]['data_samples'].gt_label)
            set_record(sample, cache.record(0, position)[1], identity)
            images.append(loaded[position]['inputs'])
            samples.append(sample)
        step(images, samples)
        machine.synchronize(device)

    return run


def record_maker(model: torch.nn.Module, folder: Path, device: str, dtype: str, batch: int) -> Callable:
    """Return a function that computes the records of a batch: the outputs of the model's teacher, encoded."""
    from serkd_mm.distillers.cache_plan import plan_outputs  # noqa: PLC0415
    from serkd_mm.distillers.teacher_encoder import TeacherEncoder  # noqa: PLC0415
    from serkd_mm.teacher_cache import TeacherCache  # noqa: PLC0415

    paths = model.teacher.taps.paths
    images = torch.randn(batch, 3, 224, 224, device=device)

    def teacher(inputs: torch.Tensor) -> dict:
        return {paths[tap]: feature for tap, feature in model.teacher(inputs).items()}

    encoder = TeacherEncoder(teacher, plan_outputs([(model.distill, paths)], full_tokens=False))
    encoder.formats = TeacherCache(folder / 'cache').formats
    mixed = torch.autocast(device, getattr(torch, dtype) if dtype != 'float32' else None, enabled=dtype != 'float32')

    def run() -> None:
        with mixed:
            encoder(images)

    return run
