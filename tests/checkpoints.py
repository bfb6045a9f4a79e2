"""Comparisons of the checkpoints of two trainings."""

from pathlib import Path
from typing import Any

import torch


def load(path: Path) -> dict:
    """Load a checkpoint without running code."""
    return torch.load(path, map_location='cpu', weights_only=True)


def assert_equal_values(actual: Any, expected: Any) -> None:
    """Compare nested containers of tensors and plain values bit for bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name in expected:
            assert_equal_values(actual[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_equal_values(one, other)
    else:
        assert actual == expected


def assert_equal_files(actual: Path, expected: Path) -> None:
    """Compare weights, averages, optimizer, schedules and logged scalars, apart from times, in all files of two folders."""
    names = {path.name for path in expected.glob('*.pth')}
    assert {path.name for path in actual.glob('*.pth')} == names
    for name in names:
        one, other = load(actual / name), load(expected / name)
        for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
            assert_equal_values(one.get(part), other.get(part))
        for scalar, history in other['message_hub']['log_scalars'].items():
            if 'time' not in scalar:
                assert_equal_values(one['message_hub']['log_scalars'][scalar], history)
