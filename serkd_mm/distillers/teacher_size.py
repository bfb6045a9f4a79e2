"""The size of the images that a teacher sees when the config does not set it."""

import torch
from mmengine.logging import print_log
from mmpretrain.models import BaseClassifier
from torch import nn

from ..config_errors import ConfigError
from ..model_sources import ModelSource

# Convolutions that cut images into patches: the first layers of CNNs have smaller strides.
_SMALLEST_PATCH = 8
_NUM_IMAGES = 2

Size = tuple[int, int]


class SizedTeacher:
    """A teacher's model, built for images of a size that it runs at.

    Args:
        source: The model to build.
        image_shape: Channels, height and width of the student's images.
        size: Height and width of the teacher's images. None tries the student's, then the nearest multiple of the teacher's
            patch size, then the size that its publisher evaluates it with.
        key: Config key of the teacher, for messages.

    Attributes:
        source: The source of the model, for images of this size.
        model: The model.
        size: Height and width that images are resized to; None if the model takes the student's as they are.

    Raises:
        ConfigError: The model cannot be built.
    """

    def __init__(self, source: ModelSource, image_shape: tuple[int, int, int], size: Size | None, key: str) -> None:
        self.size = size
        wanted = image_shape[1:]
        self.source = source.resized(size or wanted)
        if size is None and source.image_size != wanted and not self.source.takes_weights():
            self.source = source
        try:
            self.model = self.source.build(f'{key}.model')
            runs = size is not None or source.image_size == wanted or self._runs_in_patches(image_shape)
        except ConfigError:
            own = source.image_size
            if size is not None or own in (None, wanted) or source.resized(own) is source:
                raise  # There is no other model to build for another size.
            self.model, runs = None, False
        if not runs:
            self._find_other_size(source, image_shape, key)
        self._log(source.image_size, wanted, key)
        if self.size is None and self.source is not source:
            self.size = wanted  # The model has this size for good, whatever size the images of a data set have.

    def _runs_in_patches(self, image_shape: tuple[int, int, int]) -> bool:
        """Whether the model runs on images of a size and sees all of their pixels."""
        return _in_patches(self.model, image_shape[1:]) == image_shape[1:] and _runs(self.model, image_shape)

    def _find_other_size(self, source: ModelSource, image_shape: tuple[int, int, int], key: str) -> None:
        """Build the model for another size; if it runs at none, leave it to the dry run to report why."""
        channels, *wanted = image_shape
        multiple = None if self.model is None else _in_patches(self.model, tuple(wanted))
        for size in dict.fromkeys((multiple, source.image_size)):
            if size is None or size == tuple(wanted):
                continue
            resized = source.resized(size)
            if size != source.image_size and not resized.takes_weights():
                continue
            try:
                model = self.model if resized is self.source else resized.build(f'{key}.model')
            except ConfigError:
                continue
            if size == source.image_size or _runs(model, (channels, *size)):
                self.source, self.model, self.size = resized, model, size
                return
        if self.model is None:
            raise ConfigError(f'{key}.model={source.shown} runs neither at the size of the student nor at its own')

    def _log(self, own: Size | None, wanted: Size, key: str) -> None:
        """Log the size that was chosen and what it costs, unless it is both the student's and the teacher's own."""
        size = self.size or wanted
        if own is None or own == size == wanted:
            return
        why = "as the student's" if size == wanted else f"the student's is {_shown(wanted)}"
        ratio = own[0] * own[1] / (size[0] * size[1])
        tokens = _tokens(self.model, own, size)
        cost = f' (its own is {_shown(own)}: {ratio:.1f} times the pixels{tokens})' if own != size else ''
        print_log(f'{key}.input_size: {_shown(size)}, {why}{cost}', logger='current')


def patch_size(model: nn.Module) -> Size | None:
    """Return height and width of the patches that a model cuts images into; None if its first layers overlap."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fits = module.kernel_size == module.stride and min(module.stride) >= _SMALLEST_PATCH
            return module.stride if fits else None
    return None


def _in_patches(model: nn.Module, size: Size) -> Size:
    """The multiple of the model's patch size that is nearest to a size: patches that are cut off would be lost silently."""
    patch = patch_size(model) or (1, 1)
    return tuple(max(round(side / step), 1) * step for side, step in zip(size, patch, strict=True))


def _runs(model: BaseClassifier, image_shape: tuple[int, int, int]) -> bool:
    """Whether a model runs on images of a size."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(_NUM_IMAGES, *image_shape), mode='tensor')
    except Exception:  # Models raise many kinds of errors for an input that does not fit.
        return False
    finally:
        model.train(training)
    return True


def _tokens(model: nn.Module, own: Size, size: Size) -> str:
    """The numbers of patches at two sizes, for a message."""
    if (patch := patch_size(model)) is None:
        return ''
    before, after = ((height // patch[0]) * (width // patch[1]) for height, width in (own, size))
    return f', {before:,} tokens instead of {after:,}'


def _shown(size: Size) -> str:
    return f'{size[0]}x{size[1]}'
