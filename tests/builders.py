"""Small student-teacher pairs and image folders that the tests share."""

import copy
import functools
import io
import itertools
import multiprocessing
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import distributed

import serkd_mm  # noqa: F401

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / 'configs'
NUM_CLASSES = 4
_RUNS = itertools.count()

STUDENT = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DistilledVisionTransformer',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
    ),
    head=dict(
        type='DeiTDistilledClsHead',
        num_classes=NUM_CLASSES,
        in_channels=16,
        loss=dict(type='CrossEntropyLoss'),
        init_cfg=dict(type='Normal', layer='Linear', std=0.5),  # zero, mmpretrain's default, would hide errors
    ),
    init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
)
TEACHER = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48),
        img_size=32,
        patch_size=8,
        out_type='avg_featmap',
        final_norm=False,
    ),
    head=dict(type='LinearClsHead', num_classes=NUM_CLASSES, in_channels=24),
)
PREPROCESSOR = dict(num_classes=NUM_CLASSES, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)


@functools.cache
def _read_once(name: str) -> Config:
    return Config.fromfile(CONFIGS / name)


def read_config(name: str) -> Config:
    """Return a new copy of a config of this package: mmengine parses the whole zoo's index for each base in mmpretrain."""
    return copy.deepcopy(_read_once(name))


def distiller_config(**changes) -> dict:
    """Return the ``model`` part of ``configs/serkd/deit-ti_mae-b.py`` with a pair small enough for tests.

    Args:
        changes: Settings by path with ``__`` for dots, such as ``teacher__checkpoint='x.pth'``.
    """
    model = read_config('serkd/deit-ti_mae-b.py').model
    model.student.model = copy.deepcopy(STUDENT)
    model.teacher.model = copy.deepcopy(TEACHER)
    model.teacher.checkpoint = None
    model.teacher.allow_random_teacher = True
    model.data_preprocessor = copy.deepcopy(PREPROCESSOR)
    return _with_changes(model, changes)


def cnn_distiller_config(**changes) -> dict:
    """Return the ``model`` part of ``configs/cifar/cnn_serkd.py``, a pair of small CNNs whose views have three taps.

    Args:
        changes: As for :func:`distiller_config`.
    """
    model = read_config('cifar/cnn_serkd.py').model
    model.teacher.model = read_config('cifar/cnn_teacher.py').model
    model.teacher.checkpoint = None
    model.teacher.allow_random_teacher = True
    model.data_preprocessor = copy.deepcopy(PREPROCESSOR)
    return _with_changes(model, changes)


def one_view_per_tap(model: dict) -> dict:
    """Split each view of several taps, and each loss on it, into one per tap: the form that configs of 0.1 had."""
    taps_of = {name: view.pop('taps', None) for name, view in model.views.items()}
    views, losses = {}, {}
    for name, view in model.views.items():
        by_tap = {f'{name}_{tap}': dict(view, tap=tap) for tap in taps_of[name] or ()}
        views.update(by_tap or {name: view})
    for name, loss in model.losses.items():
        by_tap = {f'{name}_{tap}': dict(loss, on=f'{loss.on}_{tap}') for tap in taps_of.get(loss.on) or ()}
        losses.update(by_tap or {name: loss})
    model.views, model.losses = views, losses
    return model


def _with_changes(model: dict, changes: dict) -> dict:
    """Set each setting that is named by a path with ``__`` for dots."""
    config = Config(dict(model=model))
    for path, value in changes.items():
        owner = config.model
        *parents, name = path.split('__')
        for parent in parents:
            owner = owner[parent]
        owner[name] = value
    return config.model


def build_distiller(config=distiller_config, **changes):
    """Build the distiller of a small pair with seeded weights."""
    torch.manual_seed(0)
    model = MODELS.build(config(**changes))
    model.init_weights()
    return model


def images(batch=4, size=32, seed=0) -> torch.Tensor:
    """Return normalized images ``(batch, 3, size, size)``."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def labels(batch=4) -> list[DataSample]:
    """Return one label per image."""
    return [DataSample().set_gt_label(index % NUM_CLASSES) for index in range(batch)]


def write_images(root: Path, per_class: int, size: int = 40, seed: int = 0) -> Path:
    """Write a folder ``<class>/<number>.jpg`` of generated images whose color depends on the class."""
    rng = np.random.default_rng(seed)
    for label in range(NUM_CLASSES):
        folder = root / f'class{label}'
        folder.mkdir(parents=True)
        for number in range(per_class):
            picture = rng.integers(0, 60, (size, size, 3)) + 60 * np.array([label & 1, label >> 1, 1])
            assert cv2.imwrite(str(folder / f'{number}.jpg'), picture.astype(np.uint8))
    return root


def training_config(root: Path, work_dir: Path, **changes) -> Config:
    """Return the config of a complete training of the small pair on the images in ``root``: 2 epochs of 3 iterations."""
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=32),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    loader = dict(
        batch_size=4,
        num_workers=0,
        persistent_workers=False,
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='CustomDataset', data_root='', data_prefix=str(root), pipeline=pipeline),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    config = read_config('serkd/deit-ti_mae-b.py')
    config.merge_from_dict(
        {
            'work_dir': str(work_dir),
            # mmengine names a run by the second of its start, and runs of one name in a process share their history.
            'experiment_name': f'{Path(work_dir).name}_{next(_RUNS)}',
            'model': dict(_delete_=True, **distiller_config()),
            'data_preprocessor': dict(_delete_=True, **PREPROCESSOR),
            'train_dataloader': dict(_delete_=True, **loader),
            'val_dataloader': dict(_delete_=True, **loader),
            'test_dataloader': dict(_delete_=True, **loader),
            'val_evaluator': dict(_delete_=True, type='Accuracy', topk=1),
            'test_evaluator': dict(_delete_=True, type='Accuracy', topk=1),
            'train_cfg.max_epochs': 2,
            'default_hooks.logger.interval': 1,
            'randomness.seed': 0,
            **changes,
        }
    )
    return config


class Graphs:
    """A backend of torch.compile that runs each graph unchanged and counts the graphs."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, _inputs):
        self.count += 1
        return graph.forward


class Command:
    """Unpickling it creates a folder: code that safe loading must not run."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def run_python(*arguments, cwd: Path = REPOSITORY, succeed: bool = True, **environment: str) -> str:
    """Run Python in a separate process, without warnings and with one thread.

    Args:
        arguments: Arguments of Python: a file in ``cwd``, ``-c`` or ``-m``, and the arguments of that program.
        cwd: Working directory.
        succeed: Whether the process must succeed or fail.
        environment: Environment variables in addition to those of the tests.

    Returns:
        The standard output or, for a process that must fail, the standard error.
    """
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == succeed, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout if succeed else done.stderr


def run_forked(tool, *arguments, succeed: bool = True, **environment: str) -> str:
    """Run a Python tool in a process that is forked from this one: as :func:`run_python`, without the seconds of importing.

    Args:
        tool: Path of the file, relative to the repository.
        arguments: Its arguments.
        succeed: Whether the process must succeed or fail.
        environment: Environment variables in addition to those of the tests.

    Returns:
        The standard output or, for a process that must fail, the standard error.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:

        def run() -> None:
            sys.stdout, sys.stderr = io.TextIOWrapper(output, 'utf-8'), io.TextIOWrapper(error, 'utf-8')
            os.environ.update(environment)
            os.chdir(REPOSITORY)
            torch.set_num_threads(1)  # The threads of OpenMP do not survive a fork.
            path = REPOSITORY / tool
            sys.argv, sys.path[:0] = [str(path), *map(str, arguments)], [str(path.parent)]
            runpy.run_path(str(path), run_name='__main__')

        succeeded = in_process(run) == 0
        output.seek(0)
        error.seek(0)
        printed, reported = output.read().decode(), error.read().decode()
    assert succeeded == succeed, printed[-2000:] + reported[-6000:]
    return printed if succeed else reported


def run_command(*command, cwd: Path = REPOSITORY, succeed: bool = True, timeout: int = 600, **environment: str) -> str:
    """Run a command on the CPU, with one thread, and return its output.

    Args:
        command: The command and its arguments.
        cwd: Working directory.
        succeed: Whether the command must succeed or fail.
        timeout: Seconds after which it is ended.
        environment: Environment variables in addition to those of the tests.
    """
    settings = {'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '-1', 'PORT': str(free_port())}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **settings, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    assert (done.returncode == 0) == succeed, done.stdout[-6000:]
    return done.stdout


def python_path(*folders: Path) -> str:
    """Return ``PYTHONPATH`` with some folders in front of those that it has."""
    return os.pathsep.join(filter(None, [*map(str, folders), os.environ.get('PYTHONPATH')]))


def free_port() -> int:
    """Return a port that no process listens to."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]


def in_process(function) -> int:
    """Run a function in a forked process, and return its exit code."""
    process = multiprocessing.get_context('fork').Process(target=function)
    process.start()
    process.join()
    return process.exitcode


def copy_repository(folder: Path) -> Path:
    """Copy the files of the repository, without generated ones, to a new folder."""
    generated = ('.git', '.venv', '.dist_test', '.*_cache', '__pycache__', '*.egg-info', 'build', 'data', 'work_dirs')
    return shutil.copytree(REPOSITORY, folder, symlinks=True, ignore=shutil.ignore_patterns(*generated))


def run_ranks(script: str, num_ranks: int, *arguments) -> None:
    """Run a test file as ``num_ranks`` processes; the last argument of each is its rank."""
    path = python_path(Path(__file__).parent, REPOSITORY)
    environment = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-W', 'ignore', script, *map(str, arguments)]
    with tempfile.TemporaryFile('w+') as errors:
        ranks = [subprocess.Popen([*command, str(rank)], env=environment, stderr=errors) for rank in range(num_ranks)]
        codes = [rank.wait(timeout=300) for rank in ranks]
        errors.seek(0)
        assert codes == [0] * num_ranks, errors.read()[-3000:]


def leave_ranks() -> None:
    """End a process of :func:`run_ranks` when all are done, without the shutdown of Python, in which torch may abort."""
    distributed.barrier()
    distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)


def extra_memory(prepare: str, run: str) -> int:
    """Return by how many MiB the peak memory of a separate process grows while ``run`` is executed after ``prepare``."""
    code = f"import machine, torch\n{prepare}\nbefore = machine.peak('cpu')\n{run}\nprint(machine.peak('cpu') - before)"
    return int(run_python('-c', code, PYTHONPATH=str(REPOSITORY / 'tools' / 'benchmarks'))) // 2**20
