"""Estimated time of the angle kernel from counts of its instructions, without Triton and without a GPU."""

import json
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

EFFICIENCY = 0.6  # An assumption: no kernel issues an instruction in every cycle.
OPERATIONS = 15  # Float32 operations for an angle: 4 and 4 for the cosines, 2 for the slope, 2 for the loss, 3 for the sums.
RESULTS = Path(__file__).parent / 'results' / 'kernel_statistics.json'


class Device(NamedTuple):
    """A GPU: target, multiprocessors, GHz, float32 instructions of warps a cycle and multiprocessor, GB/s."""

    target: str
    processors: int
    clock: float
    arithmetic: int
    bandwidth: float


DEVICES = {
    'A100': Device('sm_80', 108, 1.41, 2, 1555),
    'H100': Device('sm_90', 132, 1.755, 4, 3350),
}


def estimate(device: Device, found: dict[str, Any], batch: int) -> dict[str, float]:
    """Estimate milliseconds for a batch, and the bounds by memory and by arithmetic; see kernel_statistics.py."""
    angles = batch * found['tokens'] ** 3
    busy = min(batch * found['warps'] / (4 * device.processors), 1) * device.processors * device.clock * 1e9
    warp_angles = angles * found['padding'] / 32
    cycles = max(found['instructions'] / 4, found['arithmetic'] / device.arithmetic, found['memory'] + found['shuffles'])
    return {
        'milliseconds': 1e3 * warp_angles * cycles / busy / EFFICIENCY,
        'memory_bound': 1e3 * 4 * batch * found['numbers'] / device.bandwidth / 1e9,
        'arithmetic_bound': 1e3 * angles * OPERATIONS / (32 * device.arithmetic * device.processors * device.clock * 1e9),
    }


def published_counts(target: str, num_tokens: int) -> dict[str, Any]:
    """Return the published counts for a number of tokens: those of the nearest number, with its own padding.

    Args:
        target: Architecture of the GPU, such as 'sm_90'.
        num_tokens: Number of tokens L.
    """
    rows = [row for row in json.loads(RESULTS.read_text())['results'] if row['target'] == target]
    nearest = min(rows, key=lambda row: abs(row['tokens'] - num_tokens))
    # Tiles of 64 x 8, the last of 32 x 8 if that is enough: tokens j are padded to 32, tokens k to 8.
    padding = 32 * ceil(num_tokens / 32) * 8 * ceil(num_tokens / 8) / num_tokens**2
    return {**nearest, 'tokens': num_tokens, 'padding': padding}
