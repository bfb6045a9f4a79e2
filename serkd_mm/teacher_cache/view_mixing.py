"""Mixup and CutMix of the two images of a pair: drawn by the data set, applied by the data preprocessor."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from mmpretrain.models.utils.batch_augments import CutMix, Mixup, RandomBatchAugment
from torch import Tensor

from .canonical import canonical
from .errors import CacheError

_KEY = 'RepeatableViews.augments'


class ViewMix(NamedTuple):
    """How an image is mixed with its mate.

    Attributes:
        image: Number of the image in its data set.
        mate: Number of the other image of the pair.
        pixel_share: Weight of the image's own pixels outside the box. The mate's weight is the rest.
        label_share: Weight of the image's own label.
        box: First and last row, first and last column of the box that shows the mate alone; the last ones are outside.
    """

    image: int
    mate: int
    pixel_share: float = 1.0
    label_share: float = 1.0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def is_identity(self) -> bool:
        """Whether neither the image nor its label is changed."""
        top, bottom, left, right = self.box
        return self.pixel_share == self.label_share == 1 and (bottom <= top or right <= left)


class PairMixing:
    """Draw how the two images of a pair are mixed, with the distributions of mmpretrain's ``Mixup`` and ``CutMix``.

    Args:
        settings: What a classifier of mmpretrain has as ``train_cfg``: ``augments``, one augmentation or a list, and
            ``probs``, their probabilities; the rest of 1 is that of no mixing. Without ``probs`` all are equally likely.

    Raises:
        CacheError: The settings are unusable, or name another augmentation.
    """

    def __init__(self, settings: Mapping) -> None:
        if not isinstance(settings, Mapping) or 'augments' not in settings or set(settings) - {'augments', 'probs'}:
            raise CacheError(f'{_KEY} must be dict(augments=[dict(type=...), ...], probs=None), but is {settings!r}')
        try:
            augment = RandomBatchAugment(**deepcopy(dict(settings)))  # It appends to the list of probabilities.
        except (AssertionError, KeyError, TypeError) as error:
            raise CacheError(f'{_KEY}={dict(settings)!r}: {type(error).__name__}: {error}') from error
        for part in augment.augments:
            if part is not None and type(part) not in (Mixup, CutMix):
                raise CacheError(
                    f'{_KEY}: {type(part).__name__} cannot be repeated for the two images of a pair. Use Mixup or CutMix'
                )
        self._augments, self._probs = augment.augments, augment.probs

    def draw(self, image: int, mate: int, size: Sequence[int]) -> ViewMix:
        """Draw from NumPy's global random state.

        Args:
            image: Number of the image.
            mate: Number of the other image of the pair.
            size: Height and width of the image.
        """
        augment = self._augments[np.random.choice(len(self._augments), p=self._probs)]
        if augment is None:
            return ViewMix(image, mate)
        share = np.random.beta(augment.alpha, augment.alpha)
        if type(augment) is Mixup:
            return ViewMix(image, mate, share, share)
        box, share = augment.cutmix_bbox_and_lam(size, share)
        return ViewMix(image, mate, 1.0, float(share), tuple(map(int, box)))


def mixing_settings(settings: Mapping | None) -> dict[str, Any] | None:
    """Return settings of :class:`PairMixing` in one form, to be stored and compared; None without mixing."""
    if not settings:
        return None
    augments, probs = settings['augments'], settings.get('probs')
    return {
        'augments': canonical(augments if isinstance(augments, (list, tuple)) else [augments]),
        'probs': [probs] if isinstance(probs, float) else canonical(probs),
    }


def check_pairs(mixes: Sequence[ViewMix | None]) -> None:
    """Check that images 2k and 2k + 1 of a batch are a pair.

    Raises:
        CacheError: They are not.
    """
    if len(mixes) % 2 == 0 and None not in mixes:
        pairs = zip(mixes[::2], mixes[1::2], strict=True)
        if all((one.image, one.mate) == (two.mate, two.image) for one, two in pairs):
            return
    raise CacheError(
        'The images of a batch are not in pairs to be mixed: train_dataloader.batch_size must be even, and '
        "train_dataloader.sampler=dict(type='ViewSampler'), without a batch_sampler"
    )


def mix_images(images: Tensor, mixes: Sequence[ViewMix]) -> Tensor:
    """Mix each image of a batch ``(B, C, H, W)`` with the other one of its pair, as ``Mixup`` and ``CutMix`` compute it."""
    # Both weights are rounded from float64, as Python numbers are when they multiply a tensor.
    shares = torch.tensor([mix.pixel_share for mix in mixes], dtype=torch.float64)
    own, other = (share.to(images)[:, None, None, None] for share in (shares, 1 - shares))
    boxes = [mix.box for mix in mixes]
    if any(map(any, boxes)):
        inside = _inside(torch.tensor(boxes, device=images.device), *images.shape[-2:])
        own, other = own.masked_fill(inside, 0), other.masked_fill(inside, 1)
    return (own * images).add_(_mates(images).mul_(other))  # In place, for one large tensor less.


def mix_scores(scores: Tensor, mixes: Sequence[ViewMix]) -> Tensor:
    """Mix each row of soft labels ``(B, num_classes)`` with that of the other image of its pair."""
    shares = torch.tensor([mix.label_share for mix in mixes], dtype=torch.float64)
    own, other = (share.to(scores)[:, None] for share in (shares, 1 - shares))
    return own * scores + other * _mates(scores)


def _mates(batch: Tensor) -> Tensor:
    """Swap the two entries of each pair."""
    return batch.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return masks ``(B, 1, H, W)`` of boxes ``(B, 4)``."""
    top, bottom, left, right = boxes.T[..., None]
    rows, columns = (torch.arange(length, device=boxes.device) for length in (height, width))
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
