"""Training steps of our configs, and their times, for training_step.py and method_steps.py."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch


def our_step(
    config: Path, device: str, dtype: str, options: dict[str, Any] | None = None
) -> tuple[torch.nn.Module, Callable]:
    """Return the model of one of our configs, and a training step on images and data samples, which returns the losses.

    Args:
        config: The config file.
        device: 'cpu' or 'cuda'.
        dtype: Of autocast; 'float32' for none.
        options: Settings by dotted key, which replace those of the file. Default: None.
    """
    from mmengine.config import Config  # noqa: PLC0415 (a process imports only what it measures)
    from mmengine.optim import build_optim_wrapper  # noqa: PLC0415
    from mmpretrain.registry import MODELS  # noqa: PLC0415

    import serkd_mm  # noqa: F401, PLC0415

    config = Config.fromfile(config)
    config.merge_from_dict(options or {})
    if 'teacher' in config.model and not config.model.teacher.get('cache'):
        config.model.teacher.update(checkpoint=None, allow_random_teacher=True)
    config.model.data_preprocessor = config.data_preprocessor
    model = MODELS.build(config.model)
    model.init_weights()
    model.to(device).train()
    if dtype != 'float32':
        # mmengine's wrapper needs a GPU; on a CPU, mixed precision is bfloat16.
        amp = {'type': 'AmpOptimWrapper', 'dtype': dtype}
        config.optim_wrapper.update(amp if device == 'cuda' else {'type': 'mmpretrain.AutocastOptimWrapper'})
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    if hasattr(model, 'set_progress'):
        model.set_progress(0.5)  # Of a schedule, if there is one.

    def step(images: torch.Tensor, samples: list) -> dict[str, torch.Tensor]:
        return model.train_step({'inputs': list(images), 'data_samples': samples}, optim_wrapper)

    return model, step


def generated_batch(batch: int) -> tuple[torch.Tensor, list[int]]:
    """Return images and their classes, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 1000, (batch,), generator=generator).tolist()


def with_labels(step: Callable) -> Callable:
    """Return a step on images and classes of a step on images and data samples."""
    from mmpretrain.structures import DataSample  # noqa: PLC0415

    def run(images: torch.Tensor, classes: list[int]) -> dict[str, torch.Tensor]:
        return step(images, [DataSample().set_gt_label(label) for label in classes])

    return run


def with_images(step: Callable, images: torch.Tensor, classes: list[int], device: str) -> Callable:
    """Return a function without arguments that takes a step on images and classes and waits for the device."""

    def run() -> None:
        step(images, classes)
        machine.synchronize(device)

    return run


def interleave(functions: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Call the functions in turn, for ``seconds`` per function and at least three times; return their times in seconds."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds * len(functions)
    while len(times[next(iter(times))]) < 3 or time.perf_counter() < end:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times
