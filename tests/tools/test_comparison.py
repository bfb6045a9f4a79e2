"""Paired differences with intervals, and the table and the figure of them."""

import json
import math
import re
import sys
from statistics import NormalDist, mean

import cv2
import numpy as np
import pytest
from builders import REPOSITORY

sys.path.append(str(REPOSITORY / 'tools' / 'experiments'))
from comparison import paired_difference, residual_variance
from comparison_report import Comparison, plot_comparisons
from comparison_summary import plot_summary, summary_table


def backfitted_variance(accuracies):
    """Least squares of method + seed by alternating means, for a design that hangs together."""
    methods, seeds = dict.fromkeys(accuracies, 0.0), dict.fromkeys({s for runs in accuracies.values() for s in runs}, 0.0)
    rows = [(method, seed, value) for method, runs in accuracies.items() for seed, value in runs.items()]
    for _ in range(2000):
        for method in methods:
            methods[method] = mean(value - seeds[s] for m, s, value in rows if m == method)
        for seed in seeds:
            seeds[seed] = mean(value - methods[m] for m, s, value in rows if s == seed)
    residual = sum((value - methods[m] - seeds[s]) ** 2 for m, s, value in rows)
    freedom = len(rows) - len(methods) - len(seeds) + 1
    return residual / freedom, freedom


def looped_margin(a, b, variance, quantile):
    """The half width of the interval, written from the formula with loops."""
    seeds, num_images = sorted(a.keys() & b.keys()), len(next(iter(a.values())))
    d = [[100.0 * (int(a[seed][i]) - int(b[seed][i])) for i in range(num_images)] for seed in seeds]
    overall = sum(map(sum, d)) / (len(seeds) * num_images)
    of_image = [sum(row[i] for row in d) / len(seeds) for i in range(num_images)]
    of_seed = [sum(row) / num_images for row in d]
    images = len(seeds) * sum((value - overall) ** 2 for value in of_image) / (num_images - 1)
    residual = sum(
        (d[s][i] - of_seed[s] - of_image[i] + overall) ** 2 for s in range(len(seeds)) for i in range(num_images)
    ) / ((len(seeds) - 1) * (num_images - 1))
    of_images = max(0.0, images - residual) / (len(seeds) * num_images)
    return quantile * math.sqrt(2 * variance / len(seeds) + of_images)


def random_runs(rng, shares, num_images):
    """Images that are right in most runs or in few, by method and seed."""
    ease = rng.random(num_images)
    return {
        method: {seed: rng.random(num_images) < (ease + share) / 2 for seed in seeds}
        for method, (share, seeds) in shares.items()
    }


def accuracies_of(runs):
    return {method: {seed: 100 * right.mean() for seed, right in by_seed.items()} for method, by_seed in runs.items()}


def test_residual_variance_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    for seeds in ([range(4)] * 5, [range(4), range(2), [1, 3], [2], range(3)]):
        accuracies = {f'm{number}': {s: rng.normal(40 + s, 1) for s in some} for number, some in enumerate(seeds)}
        assert residual_variance(accuracies) == pytest.approx(backfitted_variance(accuracies), rel=1e-9)
    additive = {'a': {0: 1.0, 1: 2.0}, 'b': {0: 5.0, 1: 6.0}}
    assert residual_variance(additive) == (pytest.approx(0, abs=1e-20), 1)


@pytest.mark.parametrize('accuracies', [{}, {'a': {0: 1.0, 1: 2.0}}, {'a': {0: 1.0, 1: 2.0}, 'b': {2: 1.0, 3: 2.0}}])
def test_no_variance_without_degrees_of_freedom(accuracies):
    assert residual_variance(accuracies) is None


# Quantiles of Student's t at 97.5 %, as printed in tables.
@pytest.mark.parametrize(('freedom', 'quantile'), [(1, 12.706), (2, 4.303), (10, 2.228), (30, 2.042), (1000, 1.962)])
def test_interval_follows_its_formula(freedom, quantile):
    rng = np.random.default_rng(freedom)
    runs = random_runs(rng, {'a': (0.6, [0, 1, 2, 5]), 'b': (0.4, [5, 4, 2, 1])}, num_images=60)
    a, b = runs.values()
    for variance in (0.0, 0.7):
        difference = paired_difference(a, b, variance, freedom)
        expected = mean(100 * (a[seed].mean() - b[seed].mean()) for seed in (1, 2, 5))
        margin = looped_margin(a, b, variance, quantile)
        assert difference.seeds == 3
        assert difference.mean == pytest.approx(expected)
        assert (difference.low, difference.high) == pytest.approx((expected - margin, expected + margin), rel=1e-3)
    opposite = paired_difference(b, a, variance, freedom)
    assert (opposite.mean, opposite.low) == pytest.approx((-difference.mean, -difference.high))


@pytest.mark.parametrize(
    ('seed_effect', 'image_effect', 'num_seeds'), [(0.02, 1.5, 4), (0.25, 0.02, 4), (0.12, 0.5, 4), (0.12, 0.5, 2)]
)
def test_interval_covers_the_true_difference(seed_effect, image_effect, num_seeds):
    """The score of an image is normal: the chance that it is right, over other seeds and images, is known."""
    rng, num_images, num_methods, repetitions = np.random.default_rng(7), 200, 6, 500
    centers = np.linspace(-0.2, 0.3, num_methods)
    # Image, method x image, seed, method x seed, and noise of each run and image.
    scale = math.sqrt(0.5**2 + image_effect**2 + 0.1**2 + seed_effect**2 + 1)
    truth = [100 * NormalDist().cdf(center / scale) for center in centers]
    covered = 0
    for _ in range(repetitions):
        scores = centers[:, None, None] + rng.normal(0, 0.5, num_images)
        scores = scores + rng.normal(0, image_effect, (num_methods, 1, num_images))
        scores = scores + rng.normal(0, 0.1, (4, 1)) + rng.normal(0, seed_effect, (num_methods, 4, 1))
        right = scores + rng.normal(0, 1, scores.shape) > 0
        runs = {method: dict(enumerate(of_method)) for method, of_method in enumerate(right)}
        runs[0] = {seed: runs[0][seed] for seed in range(num_seeds)}
        difference = paired_difference(runs[0], runs[5], *residual_variance(accuracies_of(runs)))
        covered += difference.low <= truth[0] - truth[5] <= difference.high
    assert 0.92 <= covered / repetitions <= 0.98


def test_no_interval_where_it_cannot_be_estimated():
    right, wrong = np.array([True, True, False]), np.array([True, False, False])
    for difference in (
        paired_difference({0: right}, {0: wrong, 1: wrong}, 0.5, 10),
        paired_difference({0: right, 1: right}, {0: wrong, 1: wrong}, None, 0),
    ):
        assert difference.mean == pytest.approx(100 / 3)
        assert difference.low is difference.high is None
    one_image = dict.fromkeys((0, 1), right[:1])
    assert paired_difference(one_image, one_image, 0.5, 10).low is None
    equal = dict.fromkeys((0, 1), right)
    same = paired_difference(equal, equal, 0.0, 5)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match='no seed in common'):
        paired_difference({0: right}, {1: right}, 0.5, 10)
    with pytest.raises(ValueError, match=r'different numbers of images.*\[2, 3\]'):
        paired_difference({0: right}, {0: right[:2]}, 0.5, 10)


def write_run(folder, right, labels, logged=None):
    """Write a run as mmengine and the experiments leave it: a log, and predictions."""
    accuracy = 100 * float(np.mean(right)) if logged is None else logged
    log = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    entries = [{'accuracy/top1': 1.0, 'step': 1}, {'accuracy/top1': accuracy, 'step': 2}]
    log.write_text(''.join(json.dumps(entry) + '\n' for entry in entries))
    predictions = np.where(right, labels, labels + 1)
    (folder / 'predictions.txt').write_text(''.join(f'{predicted}\n' for predicted in predictions))
    return folder


@pytest.fixture
def study(tmp_path):
    """Return runs of four methods, and the labels."""
    rng = np.random.default_rng(3)
    labels = np.arange(120) % 10
    shares = {'KD': (0.3, range(4)), 'SeRKD': (0.5, range(4)), 'RKD': (0.4, range(2)), 'single': (0.4, [3])}
    runs = random_runs(rng, shares, len(labels))
    folders = {
        method: [write_run(tmp_path / f'{method}_seed{seed}', right, labels) for seed, right in by_seed.items()]
        for method, by_seed in runs.items()
    }
    return runs, folders, labels


def test_table_reads_the_files_of_the_runs(study):
    runs, folders, labels = study
    comparison = Comparison(folders, labels.tolist(), ['KD', 'RKD'])
    header, _, *lines = comparison.table().splitlines()
    assert header == '| method | top-1 (%) | spread | by seed | difference to KD | difference to RKD |'
    rows = {cells[1]: cells[2:-1] for cells in (re.split(r' *\| *', line) for line in lines)}
    assert list(rows) == ['KD', 'SeRKD', 'RKD', 'single']
    accuracies = accuracies_of(runs)
    expected = paired_difference(runs['SeRKD'], runs['KD'], *residual_variance(accuracies))
    assert rows['SeRKD'][3] == f'{expected.mean:+.2f} [{expected.low:+.2f}, {expected.high:+.2f}]'
    assert rows['SeRKD'][0] == f'{mean(accuracies["SeRKD"].values()):.2f}'
    for method, of_method in accuracies.items():
        assert rows[method][2] == ', '.join(f'{of_method[seed]:.2f}' for seed in sorted(of_method))
    assert rows['KD'][3] == rows['RKD'][4] == rows['single'][1] == rows['single'][4] == '-'  # None, or no seed in common.
    assert re.fullmatch(r'[+-]\d+\.\d\d', rows['single'][3])  # One seed: no interval.
    # 11 runs, 4 methods and 4 seeds: 4 degrees of freedom. SeRKD and RKD against KD, KD and SeRKD against RKD.
    assert '(4 degrees of freedom)' in comparison.note()
    assert 'Each of the 4 intervals' in comparison.note()
    few = Comparison({'KD': folders['KD']}, labels, ['KD'])
    assert few.note().endswith('there are too few runs for intervals.')
    assert few.table().splitlines()[2].split(' | ')[4:] == ['- |']


def test_figure_has_a_row_for_each_student(study, tmp_path):
    _, folders, labels = study
    sizes = []
    both = Comparison(folders, labels, ['KD', 'RKD'])
    for students in ({'ViT': both}, {'ViT': both, 'CNN': Comparison(folders, labels, ['KD'])}):
        plot_comparisons(tmp_path / 'results.png', students)
        picture = cv2.imread(str(tmp_path / 'results.png'))
        assert picture.std() > 10
        sizes.append(picture.shape)
    assert sizes[1][0] > 1.8 * sizes[0][0]
    assert sizes[1][1] == pytest.approx(sizes[0][1], rel=0.1)


def test_summary_has_the_students_side_by_side(study, tmp_path):
    runs, folders, labels = study
    students = {'ViT': Comparison(folders, labels, []), 'CNN': Comparison(dict(list(folders.items())[:2]), labels, [])}
    header, _, *lines = summary_table(students, ['SeRKD', 'KD'], 'KD').splitlines()
    columns = [f'{student}: top-1 (%), seeds | difference to KD' for student in students]
    assert header == f'| student trained with | {" | ".join(columns)} |'
    rows = {cells[1]: cells[2:-1] for cells in (re.split(r' *\| *', line) for line in lines)}
    assert list(rows) == ['SeRKD', 'KD']
    # The interval depends on the spread of all methods of the student, also of those that are not shown.
    for place, shown in ((1, runs), (3, dict(list(runs.items())[:2]))):
        expected = paired_difference(runs['SeRKD'], runs['KD'], *residual_variance(accuracies_of(shown)))
        assert rows['SeRKD'][place] == f'{expected.mean:+.2f} [{expected.low:+.2f}, {expected.high:+.2f}]'
        assert rows['KD'][place - 1 : place + 1] == [f'{mean(accuracies_of(runs)["KD"].values()):.2f} (4)', '-']
    assert rows['SeRKD'][1] != rows['SeRKD'][3]
    widths = []
    for some in (students, {'ViT': students['ViT']}):
        plot_summary(tmp_path / 'summary.png', some, ['SeRKD', 'KD', 'RKD'] if len(some) == 1 else ['SeRKD', 'KD'], 'KD')
        picture = cv2.imread(str(tmp_path / 'summary.png'))
        assert picture.std() > 10
        widths.append(picture.shape[1])
    assert widths[0] > 1.3 * widths[1]


def test_summary_has_the_main_methods_of_the_students_with_all(study, tmp_path):
    import tiny_imagenet  # noqa: PLC0415 (a script)

    _, folders, labels = study
    titles = dict(zip(folders, ('KD', 'SeRKD, superpixels', 'RKD', 'labels only'), strict=True))
    comparison = Comparison({titles[name]: runs for name, runs in folders.items()}, labels, [])
    tiny_imagenet.write_summary(tmp_path, {'vit': comparison, 'vit16': comparison})
    header, _, *lines = (tmp_path / 'summary.md').read_text().splitlines()
    assert header == '| student trained with | ViT, 8x8 tokens: top-1 (%), seeds | difference to KD |'
    assert [line.split(' | ')[0] for line in lines] == ['| labels only', '| KD', '| SeRKD, superpixels']
    assert (tmp_path / 'summary.png').is_file()
    tiny_imagenet.write_summary(tmp_path, {'vit16': comparison})
    assert not list(tmp_path.glob('summary.*'))


def test_runs_that_do_not_fit_are_named(study, tmp_path):
    _, folders, labels = study
    with pytest.raises(ValueError, match="references: 'kd' is none of the methods: KD, SeRKD"):
        Comparison(folders, labels, ['kd'])
    with pytest.raises(ValueError, match="'KD' has no runs"):
        Comparison({'KD': []}, labels, [])
    with pytest.raises(ValueError, match="KD_seed0: 'KD' has two runs with this seed"):
        Comparison({'KD': [folders['KD'][0]] * 2}, labels, [])
    with pytest.raises(ValueError, match=r'other: the name of the folder .* must end with _seed'):
        Comparison({'KD': [tmp_path / 'other']}, labels, [])
    with pytest.raises(ValueError, match=r'KD_seed0/predictions\.txt: 120 predictions for 100 validation images'):
        Comparison(folders, labels[:100], [])
    right = np.arange(120) % 2 == 0
    stale = write_run(tmp_path / 'stale_seed0', right, labels, logged=51.0)
    with pytest.raises(ValueError, match=r'predictions\.txt: 50\.00 % are right, but the last .* has logged 51\.00 %'):
        Comparison({'KD': [stale]}, labels, [])
    (stale / 'predictions.txt').write_text('1\nnone\n')
    with pytest.raises(ValueError, match='each line must be the number of a class'):
        Comparison({'KD': [stale]}, labels, [])
    (stale / 'predictions.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r'stale_seed0/predictions\.txt'):
        Comparison({'KD': [stale]}, labels, [])
