"""Shared by the benchmarks: a description of the machine, peak memory, and measurements in separate processes."""

import ctypes
import inspect
import json
import platform
import resource
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
STATUS = Path('/proc/self/status')


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that all benchmarks have."""
    on_gpu = torch.cuda.is_available()
    parser.add_argument(
        '--device', choices=['cpu', 'cuda'], default='cuda' if on_gpu else 'cpu', help='by default the GPU, if any'
    )
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='bfloat16' if on_gpu else 'float32')
    parser.add_argument('--seconds', type=float, default=3.0, help='time in which each measurement is repeated')
    parser.add_argument('--out', type=Path, default=ROOT / 'tools' / 'benchmarks' / 'results', help='folder of the results')


def describe(device: str, dtype: str) -> dict[str, str]:
    """Return the processor or GPU, the versions and the date, and print them."""
    kind = torch.cuda.get_device_name() if device == 'cuda' else f'{_processor()}, {torch.get_num_threads()} threads'
    about = {
        'device': kind,
        'python': platform.python_version(),
        'torch': torch.__version__.split('+')[0],
        'dtype': dtype,
        'date': time.strftime('%Y-%m-%d'),
    }
    print(', '.join(f'{name}: {value}' for name, value in about.items()), flush=True)
    return about


def measure_separately(function: Callable[..., dict], settings: list[Any], device: str) -> dict[str, Any]:
    """Measure in a separate process on a CPU, and in this process on a GPU.

    The peak memory of a process cannot be reset on all systems; that of a GPU's allocator can.

    Args:
        function: Function of a script with the option ``--measure``, which calls it.
        settings: Arguments of the function.
        device: 'cpu' or 'cuda'.

    Returns:
        The result of the function, or ``{'failed': message}``, for example if the memory does not suffice.
    """
    if device == 'cuda':
        try:
            return function(*settings)
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            return {'failed': str(error)[:300]}
    command = [sys.executable, '-W', 'ignore', inspect.getfile(function), '--measure', json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {'failed': done.stderr[-300:]}


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, as in any process that trains; otherwise each step requests it from the system again."""
    torch.empty(7 * 2**20)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == 'cuda':
        torch.cuda.synchronize()


def peak(device: str) -> int:
    """Return the peak memory in bytes: of the process, or of the allocator of a GPU."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    if STATUS.is_file():  # getrusage includes the peak of the parent process.
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith('VmHWM'))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def reset_peak(device: str) -> int:
    """Reset :func:`peak`, on a CPU only under Linux; return the memory in use, in bytes."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if Path('/proc/self/clear_refs').exists():
        with suppress(OSError, AttributeError):  # C libraries other than glibc have no malloc_trim.
            ctypes.CDLL('libc.so.6').malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')
    return peak(device)


def report(path: Path, about: dict[str, str], results: Any, table: str, plot: Callable[[Path, Any], None]) -> None:
    """Print the table, and write results and machine to ``path`` with the suffix ``.json`` and the plot with ``.png``."""
    print(f'\n{table}')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix('.json').write_text(json.dumps({'machine': about, 'results': results}, indent=1) + '\n')
    plot(path.with_suffix('.png'), results)
    print(f'\nSaved {path}.json and {path}.png')


def _processor() -> str:
    """The name of the processor, or of its architecture if the system does not provide a name."""
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').is_file() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
