"""What a benchmark ran on, said in words."""

import platform
from pathlib import Path

import torch


def describe(device: str) -> dict[str, str]:
    """The machine kind and the versions that matter."""
    kind = torch.cuda.get_device_name() if device == 'cuda' else f'{_processor()}, {torch.get_num_threads()} threads'
    return {'device': kind, 'python': platform.python_version(), 'torch': torch.__version__.split('+')[0]}


def _processor() -> str:
    """The processor's name where the system tells it."""
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').is_file() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
