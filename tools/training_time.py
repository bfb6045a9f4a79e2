"""Formulas of tools/plan_training.py: from counts of a training step to seconds, hours and bytes."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.append(str(Path(__file__).parent / 'benchmarks'))
from kernel_counts import Kernel, StepCounts
from kernel_time import DEVICES, estimate, published_counts

CHECKSUMS = 8  # Bytes of a record of a cache.


class Gpu(NamedTuple):
    """Data sheet of a GPU: dense TFLOPS in bfloat16, float32 and float64, GB/s and GB of its memory."""

    bfloat16: float
    float32: float
    float64: float
    bandwidth: float
    memory: float


# NVIDIA's data sheets: H100 SXM with 80 GB, A100 SXM with 40 GB. Float64 is that of the tensor cores.
GPUS = {'h100': Gpu(989, 67, 67, 3350, 80), 'a100': Gpu(312, 19.5, 19.5, 1555, 40)}


@dataclass(frozen=True)
class Rates:
    """How fast a GPU and its host are assumed to be.

    Attributes:
        gpu: Its data sheet.
        utilization: Share of the peak FLOPs that a kernel reaches.
        bandwidth_share: Share of the bandwidth of its memory that a kernel reaches.
        launch: Seconds in which the host starts a kernel.
        angle_device: Key of the GPU in ``DEVICES`` for which the angle kernel is estimated.
    """

    gpu: Gpu
    utilization: float = 0.6
    bandwidth_share: float = 0.8
    launch: float = 10e-6
    angle_device: str = 'H100'

    def kernel_seconds(self, kernel: Kernel) -> float:
        """Return the longer of a kernel's arithmetic and its memory traffic."""
        peak = {torch.float32: self.gpu.float32, torch.float64: self.gpu.float64}.get(kernel.dtype, self.gpu.bfloat16)
        arithmetic = kernel.flops / (self.utilization * peak * 1e12)
        return max(arithmetic, kernel.num_bytes / (self.bandwidth_share * self.gpu.bandwidth * 1e9))

    def gpu_seconds(self, kernels: Iterable[Kernel]) -> float:
        """Return the time of kernels that run one after another."""
        return sum(map(self.kernel_seconds, kernels))

    def angle_seconds(self, angles: Iterable[tuple[int, int]]) -> float:
        """Return the time of the angle kernel for the images and tokens of each angle loss, by its instructions."""
        device = DEVICES[self.angle_device]
        milliseconds = (
            estimate(device, published_counts(device.target, tokens), batch)['milliseconds'] for batch, tokens in angles
        )
        return sum(milliseconds) / 1e3


@dataclass(frozen=True)
class Step:
    """A training step on each GPU.

    Attributes:
        batch_size: Images of a GPU.
        gpu: Seconds of all kernels.
        host: Seconds in which the host starts them.
    """

    batch_size: int
    gpu: float
    host: float

    @property
    def seconds(self) -> float:
        """The longer of the two: the host starts kernels while others run."""
        return max(self.gpu, self.host)

    @property
    def bound(self) -> str:
        """What a step waits for."""
        return 'GPU' if self.gpu >= self.host else 'starts of kernels'

    def images_per_second(self, num_gpus: int) -> float:
        """Return the images that some GPUs take a second, if they are loaded as fast."""
        return num_gpus * self.batch_size / self.seconds


def live_step(counts: StepCounts, rates: Rates) -> Step:
    """Return the step with the teacher."""
    return _step(counts, rates, [*counts.teacher, *counts.student])


def cached_step(counts: StepCounts, rates: Rates) -> Step:
    """Return the step from a cache: reading records in place of the teacher."""
    return _step(counts, rates, [*counts.decoding, *counts.student])


def _step(counts: StepCounts, rates: Rates, kernels: list[Kernel]) -> Step:
    """The optimizer's kernels take all weights at once on a GPU, so starting them costs nothing."""
    gpu = rates.gpu_seconds([*kernels, *counts.optimizer]) + rates.angle_seconds(counts.angles)
    return Step(counts.batch_size, gpu, len(kernels) * rates.launch)


def making_step(counts: StepCounts, rates: Rates) -> Step:
    """Return a step of making a cache: the teacher alone; encoding and writing records is not included."""
    return Step(counts.batch_size, rates.gpu_seconds(counts.teacher), len(counts.teacher) * rates.launch)


def hours(num_images: float, images_per_second: float) -> float:
    """Return the hours for a number of images, all epochs or views included."""
    return num_images / images_per_second / 3600


def cache_bytes(counts: StepCounts, num_images: int, views: int) -> int:
    """Return the size of a cache of all images."""
    return views * num_images * (sum(num_bytes for *_, num_bytes in counts.cached) + CHECKSUMS)


def memory_of(counts: StepCounts, cached: bool) -> dict[str, int]:
    """Return the bytes of a step on a GPU by part; temporary memory within a kernel or layer is not included."""
    memory = counts.memory
    return {
        "student's weights": memory['student'],
        "teacher's weights": 0 if cached else memory['teacher'],
        'gradients': memory['gradients'],
        'buckets of gradients, with several GPUs': memory['gradients'],
        'state of the optimizer': memory['optimizer'],
        f'saved for the backward pass, {counts.batch_size} images': memory['saved'],
    }


def cores_for(images_per_second: float, images_per_core: float) -> int:
    """Return the CPU cores that load so many images a second."""
    return ceil(images_per_second / images_per_core)
