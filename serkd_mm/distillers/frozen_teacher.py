import logging
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import nn

from ..config_errors import ConfigError
from ..tokenizers import Feature
from .default_taps import default_taps
from .input_statistics import InputStatistics, Renormalize
from .taps import Taps
from .teacher_config import TEACHER_KEY, TeacherConfig
from .teacher_size import SizedTeacher
from .teacher_weights import fetch_on_all_ranks, load_on_all_ranks

# Layers that compute in the autocast dtype, and hold nearly all weights of a classifier.
_AUTOCAST_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)


class FrozenTeacher(nn.Module):
    """The teacher: always in eval mode, without gradients, and with the normalization that it was trained with.

    The distiller does not register it as a submodule, so checkpoints, optimizers and gradient buckets never contain it.
    Copies of the distiller (an EMA model) share it.

    Args:
        config: The settings of the teacher, see :class:`TeacherConfig`.
        used_taps: Names of the taps that a loss reads; a dict also has the names of the losses, for messages.
        student_statistics: Normalization of the student's images.
        student_size: Channels, height and width of the student's images.
        key: Config key of the teacher, for messages. Default: 'model.teacher'.

    Attributes:
        key: The config key.
        classes: The teacher's classes that are the student's; None for all.
        device: Where it runs; None: where the images are. That of the settings from :meth:`load` on, so that a config can be
            examined on a machine without that device.

    Raises:
        ConfigError: A setting is unknown, the model or a tap does not exist, or there is no checkpoint.
    """

    def __init__(
        self,
        config: Mapping,
        used_taps: Collection[str],
        student_statistics: InputStatistics,
        student_size: tuple[int, int, int],
        key: str = TEACHER_KEY,
    ) -> None:
        super().__init__()
        self.key = key
        self.config = TeacherConfig(config, key)
        sized = SizedTeacher(self.config.source, student_size, self.config.input_size, key)
        self.source, self.model, self.input_size = sized.source, sized.model, sized.size
        taps = self.config.taps
        if taps is None:
            image_shape = (student_size[0], *(self.input_size or student_size[1:]))
            taps = default_taps(self.model, used_taps, image_shape, f'{key}.taps')
        self.taps = Taps(self.model, taps, used_taps, f'{key}.taps')
        own = (
            InputStatistics.from_preprocessor(self.model.data_preprocessor) if self.config.source.has_preprocessor else None
        )
        self.classes, self.select = self.config.classes, None
        if self.classes is not None:
            self.select = self.classes.of_teacher(self.model, self.source.config)
        self.renormalize = Renormalize(student_statistics, own or student_statistics)
        self.config.execution.apply_memory_format(self.model)
        _store_weights(self.model, self.config.dtype)
        self.loaded = self.stops_early = False
        self.device: torch.device | None = None
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, inputs: torch.Tensor, taps: Taps | None = None) -> dict[str, Feature]:
        """Compute the tapped features, without a graph.

        Args:
            inputs: Images ``(B, 3, H, W)``, normalized for the student.
            taps: Other taps of :attr:`model` to collect instead of its own; it then runs to its end. Default: None.

        Returns:
            The features by tap.
        """
        images = self.own_images(inputs)
        size = tuple(images.shape[-2:])
        recording = self.taps.record(size, self.stops_early) if taps is None else taps.record(size)
        with self.autocast(images.device.type), recording as features:
            self.model(images, mode='tensor')
        features = features if self.select is None else self.select(features)
        return {name: replace(one, tensor=one.tensor.to(inputs.device)) for name, one in features.items()}

    def own_images(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return images as the teacher's model needs them: its size, its normalization and its device.

        Moves the teacher to its device or, without one, to that of the images.

        Args:
            inputs: Images ``(B, 3, H, W)``, normalized for the student.
        """
        # The teacher follows the images, not the distiller, so a copy of the distiller on another device does not move it.
        # Images for a student in half precision do not convert its weights; float64 does.
        dtype = torch.promote_types(self.renormalize.scale.dtype, inputs.dtype)
        device = self.device or inputs.device
        if self.renormalize.scale.device != device:
            self.to(device)  # Without a dtype: weights that are stored in half precision stay so.
        if self.renormalize.scale.dtype != dtype:
            self.to(dtype)
        inputs = inputs.to(device, dtype)
        if self.input_size not in (None, tuple(inputs.shape[-2:])):
            inputs = F.interpolate(inputs, self.input_size, mode='bicubic', antialias=True)
        return self.renormalize(inputs)

    def autocast(self, device: str) -> AbstractContextManager:
        """Create the autocast context that the teacher's model runs in.

        Args:
            device: Type of the device of the images.
        """
        dtype = self.config.autocast_dtype
        if dtype is None:
            return nullcontext()
        mixed = dtype != torch.float32
        return torch.autocast(device, dtype if mixed else None, enabled=mixed)

    def shorten(self) -> None:
        """Stop every further run after the last used tap, and compile the backbone if ``compile`` is on.

        Call it after a run of the whole teacher, which finds a tap that runs more than once. Compiled before, the code would
        fit the batch size of that run only.
        """
        self.stops_early = True
        self.config.execution.compile_backbone(self.model, self.taps.modules)

    def load(self) -> None:
        """Load the weights at the first call, when training starts.

        Raises:
            ConfigError: The checkpoint cannot be read or does not match the model, or there is no such device.
        """
        if self.loaded:
            return
        weights, key = self.config.weights, f'{self.config.key}.checkpoint'
        problem = f'{key} is not set' if weights is None else fetch_on_all_ranks(weights, key)
        if problem is None:
            load_on_all_ranks(self.model, weights, key, self.source.convert)
            which = '' if self.key == TEACHER_KEY else f' {self.key}'  # One of several.
            print_log(f'Loaded the teacher{which} from {weights.shown} ({weights.path})', logger='current')
        elif self.config.allow_random_teacher:
            print_log(
                f'{self.config.key}.allow_random_teacher is set and there are no weights ({problem}): distilling from a '
                'RANDOM teacher.',
                logger='current',
                level=logging.WARNING,
            )
        else:
            raise ConfigError(problem)
        self.device, self.loaded = self._existing_device(), True

    def _existing_device(self) -> torch.device | None:
        """The device of the settings; raises if it is a GPU that this machine does not have."""
        device, count = self.config.device, torch.cuda.device_count()
        if device is not None and device.type == 'cuda' and device.index >= count:
            raise ConfigError(f"{self.key}.device='{device}': this machine has {count} GPUs, numbered from 0")
        return device

    def train(self, mode: bool = True) -> 'FrozenTeacher':
        """Stay in eval mode for any ``mode``: the training loop calls ``train()`` every epoch."""
        return super().train(False)

    def __deepcopy__(self, memo: dict) -> 'FrozenTeacher':
        """Return itself: a copy of the distiller shares the teacher, which never changes."""
        return self


def _store_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights that autocast converts in every step anyway, so the outputs stay the same."""
    if dtype == torch.float32:
        return
    for module in model.modules():
        # A convolution with an epsilon standardizes its weights when it runs, in the precision that they are stored in.
        if isinstance(module, _AUTOCAST_LAYERS) and not hasattr(module, 'eps'):
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.to(dtype)
