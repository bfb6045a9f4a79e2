"""Train and evaluate a small config on generated image files: NCCL and a process for each GPU, or gloo and two on the CPU.

    python tools/benchmarks/distributed_check.py [--device cpu] [--processes 2] [--out FILE]

``tools/dist_train.sh`` trains ``configs/quickstart/student_serkd.py`` with a random teacher in bfloat16. Every rank must
have its own device, the expected backend and the same weights as the others; all losses must be finite, and a checkpoint
and an accuracy must exist.
"""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import machine
import numpy as np
import torch
from PIL import Image

ITERATIONS, BATCH, CLASSES = 3, 4, 10
CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['serkd_mm', 'rank_report'], allow_failed_imports=False)
custom_hooks = [*_base_.custom_hooks, dict(type='RankReportHook')]
model = dict(teacher=dict(checkpoint=None, allow_random_teacher=True))
train_dataloader = dict(batch_size={batch}, dataset=dict(data_root={root!r}, data_prefix=''))
val_dataloader = dict(batch_size={batch}, dataset=dict(data_root={root!r}, data_prefix=''))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = None
default_hooks = dict(logger=dict(interval=1))
work_dir = {work_dir!r}
"""


def write_images(folder: Path, number: int) -> None:
    """Write images of 32 x 32 pixels, in a folder for each class."""
    generator = np.random.default_rng(0)
    for index in range(number):
        path = folder / f'class{index % CLASSES}' / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def train(folder: Path, device: str, processes: int) -> list[dict]:
    """Train and evaluate; return the losses and metrics that were logged.

    Raises:
        SystemExit: The training failed.
    """
    root, work_dir = folder / 'images', folder / 'work'
    write_images(root, max(ITERATIONS * BATCH * processes, CLASSES))
    base = machine.ROOT / 'configs' / 'quickstart' / 'student_serkd.py'
    config = folder / 'student.py'
    config.write_text(CONFIG.format(base=str(base), batch=BATCH, root=str(root), work_dir=str(work_dir)))
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        port = server.getsockname()[1]
    here = str(Path(__file__).parent)
    paths = os.pathsep.join(filter(None, [here, str(machine.ROOT), os.environ.get('PYTHONPATH')]))
    environment = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': paths, 'PORT': str(port)}
    environment |= {'NNODES': '1', 'NODE_RANK': '0', 'MASTER_ADDR': '127.0.0.1'}  # Not those of an allocation.
    if device == 'cpu':
        environment['CUDA_VISIBLE_DEVICES'] = '-1'
    command = ['bash', machine.ROOT / 'tools' / 'dist_train.sh', config, processes]
    command += ['--amp', '--cfg-options', 'optim_wrapper.dtype=bfloat16']
    done = subprocess.run(list(map(str, command)), cwd=machine.ROOT, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f'tools/dist_train.sh with {processes} processes ended with status {done.returncode}')
    logs = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def problems(ranks: list[dict], logged: list[dict], backend: str, processes: int) -> list[str]:
    """What is wrong with the reports of the ranks and with what was logged."""
    losses = [value for entry in logged for name, value in entry.items() if name.startswith('loss')]
    wrong = {
        f'{len(ranks)} of {processes} ranks reported': len(ranks) != processes,
        f'a rank used another backend than {backend}': any(rank['backend'] != backend for rank in ranks),
        'two ranks shared a device': len({rank['device'] for rank in ranks}) != len(ranks),
        'the ranks have different weights': len({rank['weights'] for rank in ranks}) != 1,
        'a loss is not finite, or none was logged': not losses or not all(map(math.isfinite, losses)),
        'the student was not evaluated': not any('accuracy/top1' in entry for entry in logged),
    }
    return [message for message, holds in wrong.items() if holds]


def main() -> None:
    """Train, compare the ranks and save what they report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--processes', type=int, help='by default one for each GPU, or two on the CPU')
    parser.add_argument('--out', type=Path, help='file of the numbers, JSON')
    args = parser.parse_args()
    processes = args.processes or (torch.cuda.device_count() if args.device == 'cuda' else 2)
    backend = 'nccl' if args.device == 'cuda' else 'gloo'
    with TemporaryDirectory() as folder:
        logged = train(Path(folder), args.device, processes)
        ranks = [json.loads(path.read_text()) for path in sorted((Path(folder) / 'work').glob('rank*.json'))]
        wrong = problems(ranks, logged, backend, processes)
        if not (Path(folder) / 'work' / 'epoch_1.pth').is_file():
            wrong.append('no checkpoint was saved')
    steps = [entry for entry in logged if 'loss' in entry]
    found = {'processes': len(ranks), 'backend': ranks[0]['backend'] if ranks else None}
    found |= {'iterations': len(steps), 'last loss': steps[-1]['loss'] if steps else None}
    found['devices'] = ', '.join(sorted(rank['device'] for rank in ranks)) if args.device == 'cuda' else 'cpu'
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + '\n')
    print(*(f'{name}: {value}' for name, value in found.items()), sep='\n')
    if wrong:
        raise SystemExit('; '.join(wrong))


if __name__ == '__main__':
    main()
