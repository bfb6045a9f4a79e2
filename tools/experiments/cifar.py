"""Compare distillation methods for a small ViT pair and a small CNN pair on part of CIFAR-10, by the same recipe and seeds.

    python tools/experiments/cifar.py --data-root DIR [--pairs vit cnn] [--methods labels kd serkd] [--seeds 0 1 2]

DIR holds ``train/<class>/*.jpg``, 1,000 images for each of the 10 classes, and ``val/<class>/*.jpg``. A second start skips
the runs that have finished and resumes the others.
"""

import argparse

import report
from runs import ROOT, Experiment, Run, parse_arguments

CONFIGS = ROOT / 'configs' / 'cifar'
PAIRS = {'vit': 'ViT pair', 'cnn': 'CNN pair'}
METHODS = {
    'labels': 'scratch (labels only)',
    'kd': 'KD',
    'dist': 'DIST',
    'dkd': 'DKD',
    'nkd': 'NKD',
    'cskd': 'CSKD',
    'fitnet': 'FitNet',
    'rkd': 'RKD',
    'rrd': 'RRD',
    'rrd-swapped': 'RRD, temperatures swapped',
    'sekd': 'SEKD',
    'serkd_direct': 'SeRKD, no merging',
    'serkd_avg-pool': 'SeRKD, average pooling',
    'serkd_max-pool': 'SeRKD, max pooling',
    'serkd': 'SeRKD, superpixels',
}
NOTE = (
    'Top-1 accuracy on the validation images after the last epoch: mean and sample standard deviation over the seeds. '
    'Parameters are those of the deployed model.'
)


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select pairs and methods."""
    parser.add_argument('--pairs', nargs='+', choices=PAIRS, default=list(PAIRS))
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=list(METHODS))


def main() -> None:
    """Run all trainings, print the tables, and save ``results.md`` and ``results.png``."""
    args = parse_arguments(__doc__, 'cifar', ROOT / 'data' / 'cifar10-mini', add_choices)
    if not (args.data_root / 'train').is_dir():
        raise SystemExit(f'--data-root: there is no folder {args.data_root / "train"}')
    experiment = Experiment(args.work_dir, args.data_root, args.cfg_options, args.jobs)
    teachers = {pair: Run(CONFIGS / f'{pair}_teacher.py', f'{pair}_teacher', seed=0) for pair in args.pairs}
    students = {
        (pair, method): [
            Run(
                CONFIGS / f'{pair}_{method}.py',
                f'{pair}_{method}_seed{seed}',
                seed,
                None if method == 'labels' else teachers[pair],
            )
            for seed in args.seeds
        ]
        for pair in args.pairs
        for method in args.methods
    }
    seed_by_seed = [run for runs in zip(*students.values(), strict=True) for run in runs]
    experiment.run(list(teachers.values()), seed_by_seed)

    groups = {
        PAIRS[pair]: [
            report.Entry('teacher', [experiment.folder(teacher)]),
            *(
                report.Entry(METHODS[method], [experiment.folder(run) for run in students[pair, method]])
                for method in args.methods
            ),
        ]
        for pair, teacher in teachers.items()
    }
    tables = '\n\n'.join(f'## {title}\n\n{report.table(entries, with_time=False)}' for title, entries in groups.items())
    text = f'# Distillation methods on part of CIFAR-10\n\n{tables}\n\n{NOTE}\n\n![accuracy](results.png)\n'
    folder = experiment.work_dir
    (folder / 'results.md').write_text(text, encoding='utf-8')
    report.plot_scores(folder / 'results.png', {title: entries[1:] for title, entries in groups.items()})
    print(f'\n{tables}\n\n{NOTE}\n\nSaved {folder / "results.md"} and {folder / "results.png"}')


if __name__ == '__main__':
    main()
