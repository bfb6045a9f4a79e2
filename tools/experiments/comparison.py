"""Paired differences of methods that were trained with the same seeds, with confidence intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean difference of two methods in percentage points.

    Attributes:
        mean: Mean of the differences with the same seed.
        low: Lower end of the 95 % interval; None if there is no interval.
        high: Its upper end; None if there is no interval.
        seeds: Number of seeds that both methods have.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int


def residual_variance(accuracies: Mapping[str, Mapping[int, float]]) -> tuple[float, int] | None:
    """Estimate the variance that is left in the accuracy of a run when its method and its seed are known.

    The model is additive, accuracy = method + seed + residual, fitted by least squares to all runs of one student. The
    variance is assumed to be the same for all methods, so that methods with two seeds borrow from those with more.

    Args:
        accuracies: Accuracy in percent by method and seed; methods may have different seeds.

    Returns:
        The variance in squared percentage points and its degrees of freedom, runs - rank of the design; None without any
        degree of freedom.
    """
    runs = [(method, seed, value) for method, of_method in accuracies.items() for seed, value in of_method.items()]
    methods, seeds = list(accuracies), sorted({seed for _, seed, _ in runs})
    design = np.zeros((len(runs), len(methods) + len(seeds)))
    for row, (method, seed, _) in zip(design, runs, strict=True):
        row[methods.index(method)] = row[len(methods) + seeds.index(seed)] = 1
    values = np.array([value for _, _, value in runs], dtype=np.float64)
    freedom = len(runs) - int(np.linalg.matrix_rank(design)) if runs else 0
    if not freedom:
        return None
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(np.square(values - fitted).sum() / freedom), freedom


def paired_difference(
    a: Mapping[int, np.ndarray], b: Mapping[int, np.ndarray], variance: float | None, freedom: int
) -> Difference:
    r"""Compare two methods over the seeds that both have.

    With :math:`d_{si}` the difference of seed s on image i (100, 0 or -100 points), S seeds and N images, the interval is

    .. math:: \bar d \pm t_{0.975, f} \sqrt{2 \sigma^2 / S + \max(0, MS_{images} - MS_{residual}) / (S N)}

    The first term is for other seeds. The second is for other images of the same kind, from the two-way analysis of
    variance of d: what the images have in common over the seeds. It assumes that the spread between seeds is the same for
    all methods and that images are drawn independently. Each interval stands alone: of many, one in twenty is expected to
    miss its true difference.

    Args:
        a: Which images each run of a method has right, ``(N,)`` of bool, by seed.
        b: Those of the method that it is compared with.
        variance: Variance of a run, :math:`\sigma^2`, see :func:`residual_variance`; None if it cannot be estimated.
        freedom: Its degrees of freedom.

    Returns:
        ``a - b``; without an interval for one seed, one image, or without a variance.

    Raises:
        ValueError: No seed is in both, or the runs have different numbers of images.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        raise ValueError(f'no seed in common: {sorted(a)} and {sorted(b)}')
    sizes = {len(runs[seed]) for runs in (a, b) for seed in seeds}
    if len(sizes) > 1:
        raise ValueError(f'runs on different numbers of images cannot be compared: {sorted(sizes)}')
    differences = 100 * np.stack([a[seed].astype(np.float64) - b[seed] for seed in seeds])
    mean = float(differences.mean())
    if 1 in differences.shape or variance is None or not freedom:
        return Difference(mean, None, None, len(seeds))
    quantile = student_t.ppf((1 + CONFIDENCE) / 2, freedom)
    margin = float(quantile * np.sqrt(2 * variance / len(seeds) + _image_variance(differences)))
    return Difference(mean, mean - margin, mean + margin, len(seeds))


def _image_variance(differences: np.ndarray) -> float:
    """Variance of the mean of ``(seeds, images)`` over other images, apart from the residual that seeds average out."""
    num_seeds, num_images = differences.shape
    mean, of_seeds, of_images = differences.mean(), differences.mean(1, keepdims=True), differences.mean(0)
    mean_square = num_seeds * np.square(of_images - mean).sum() / (num_images - 1)
    residual = np.square(differences - of_seeds - of_images + mean).sum() / ((num_seeds - 1) * (num_images - 1))
    return max(0.0, mean_square - residual) / (num_seeds * num_images)
