"""The experiment of the quickstart: a teacher, then a student by labels only, logit KD and SeRKD, over several seeds.

    python tools/experiments/quickstart.py [--seeds 0 1 2] [--work-dir DIR] [--data-root DIR] [--jobs N]

A second start skips the runs that have finished and resumes the others.
"""

import make_digits
import report
from runs import ROOT, Experiment, Run, parse_arguments

CONFIGS = ROOT / 'configs' / 'quickstart'
TITLES = {'labels': 'student, labels only', 'kd': 'student, logit KD', 'serkd': 'student, SeRKD'}
NOTE = (
    'Top-1 accuracy on the validation images after the last epoch: mean and sample standard deviation over the seeds. '
    'One teacher; every student sees the same 100 training images. Parameters are those of the deployed model.'
)


def main() -> None:
    """Run all trainings, print the table, and save ``results.md`` and the curves ``results.png``."""
    args = parse_arguments(__doc__, 'quickstart', ROOT / 'data' / 'digits')
    if not args.data_root.is_dir():
        make_digits.main(args.data_root)
    experiment = Experiment(args.work_dir, args.data_root, args.cfg_options, args.jobs)
    teacher = Run(CONFIGS / 'teacher.py', 'teacher', seed=0)
    students = {
        student: [
            Run(CONFIGS / f'student_{student}.py', f'{student}_seed{seed}', seed, None if student == 'labels' else teacher)
            for seed in args.seeds
        ]
        for student in TITLES
    }
    longest_first = [run for runs in zip(*reversed(students.values()), strict=True) for run in runs]
    experiment.run([teacher], longest_first)

    entries = [report.Entry('teacher', [experiment.folder(teacher)])]
    entries += [report.Entry(TITLES[name], [experiment.folder(run) for run in runs]) for name, runs in students.items()]
    table = report.table(entries)
    text = f'# Quickstart: handwritten digits\n\n{table}\n\n{NOTE}\n\n![accuracy](results.png)\n'
    (experiment.work_dir / 'results.md').write_text(text, encoding='utf-8')
    title = 'Handwritten digits, 10 labeled images per class'
    report.plot_curves(experiment.work_dir / 'results.png', title, entries[1:], teacher=entries[0])
    folder = experiment.work_dir
    print(f'\n{table}\n\n{NOTE}\n\nSaved {folder / "results.md"} and {folder / "results.png"}')


if __name__ == '__main__':
    main()
