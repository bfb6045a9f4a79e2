import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather_object
from mmengine.logging import print_log
from torch import nn

from ..ops.cells import cell_sides
from .acceleration import Acceleration
from .config_errors import ConfigError, check_keys, suggest
from .default_taps import default_taps
from .input_statistics import InputStatistics, Renormalise
from .model_source import check_file, find_model
from .taps import Feature, Taps
from .teacher_weights import fetch_weights, load_weights

_KEY = 'model.teacher'
_SETTINGS = [
    'model',
    'checkpoint',
    'taps',
    'input_size',
    'allow_random_teacher',
    'autocast_dtype',
    'compile',
    'channels_last',
]
_AUTOCAST_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


class FrozenTeacher(nn.Module):
    """The teacher: always in eval mode, without gradients, and with the input it was trained on.

    The distiller keeps it outside its own tree of modules, so that checkpoints, optimizers and gradient buckets never see
    it; copies of the distiller (an EMA model) share it instead of copying it.

    Args:
        config: ``dict(model, checkpoint, taps=None, input_size=None, allow_random_teacher=False, autocast_dtype=None,
            compile=False, channels_last=False)``.

            - **model**: a dict, a config file or a name of mmpretrain's zoo.
            - **checkpoint**: a path or URL, or True for the zoo's own weights. A file must exist when the model is built;
              weights are read (and downloaded) when training starts.
            - **taps**: module path of each feature, by name; left out, they are found, see :func:`default_taps`.
            - **input_size**: height and width, one number or both, that images are resized to for a teacher that needs
              another size than the student.
            - **allow_random_teacher**: where the weights can not be had, distil from noise. For tests of the machinery.
            - **autocast_dtype**: 'bfloat16', 'float16' or 'float32': the teacher's own, whatever the student trains in. By
              default it runs as the student does.
            - **compile**, **channels_last**: see :class:`Acceleration`.
        used_taps: Names of the taps that a loss reads.
        student_statistics: What the student's preprocessor makes of an image.
        student_input_size: Channels, height and width of the student's images.

    Raises:
        ConfigError: A setting is unknown, the model or a tap does not exist, or there is no checkpoint.
    """

    def __init__(
        self,
        config: Mapping,
        used_taps: set[str],
        student_statistics: InputStatistics,
        student_input_size: tuple[int, int, int],
    ) -> None:
        super().__init__()
        check_keys(config, _SETTINGS, _KEY)
        source = find_model(config.get('model'), f'{_KEY}.model')
        self.allow_random = bool(config.get('allow_random_teacher', False))
        self.checkpoint = self._find_checkpoint(config.get('checkpoint'), source.weights)
        self.model = source.build(f'{_KEY}.model')
        self.input_size = self._find_input_size(config.get('input_size'))
        taps = config.get('taps')
        if taps is None:
            seen = (student_input_size[0], *(self.input_size or student_input_size[1:]))
            taps = default_taps(self.model, used_taps, seen, f'{_KEY}.taps')
        self.taps = Taps(self.model, taps, used_taps, f'{_KEY}.taps')
        own = InputStatistics.of(self.model.data_preprocessor) if source.normalises else student_statistics
        self.renormalise = Renormalise(student_statistics, own)
        self.autocast_dtype = self._find_autocast_dtype(config.get('autocast_dtype'))
        self.acceleration = Acceleration.of(config, _KEY)
        self.acceleration.lay_out(self.model)
        self.loaded = False
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, inputs: torch.Tensor) -> dict[str, Feature]:
        """Features by tap, without a graph, of images ``(B, 3, H, W)`` that the student's preprocessor has normalised."""
        # Following the images, and not the distiller, keeps it here when a copy of the distiller moves (an EMA on the CPU).
        if (self.renormalise.scale.device, self.renormalise.scale.dtype) != (inputs.device, inputs.dtype):
            self.to(inputs)
        if self.input_size is not None:
            inputs = F.interpolate(inputs, self.input_size, mode='bicubic', antialias=True)
        with self._autocast(inputs.device.type), self.taps.record(tuple(inputs.shape[-2:])) as features:
            self.model(self.renormalise(inputs), mode='tensor')
        return features

    def compile_backbone(self) -> None:
        """Compile the backbone, if the setting ``compile`` asks for it.

        Raises:
            ConfigError: It can not be compiled as the setting says.
        """
        self.acceleration.compile_backbone(self.model, self.taps.modules)

    def load(self) -> None:
        """Read the weights, once; called when training starts.

        Raises:
            ConfigError: The checkpoint can not be read, or its keys or shapes are not the model's.
        """
        if self.loaded:
            return
        if self.checkpoint is not None and self._fetched():
            load_weights(self.model, self.checkpoint, f'{_KEY}.checkpoint')
            print_log(f'Loaded the teacher from {self.checkpoint}', logger='current')
        else:
            print_log(
                f'{_KEY}.allow_random_teacher is set and there are no weights: distilling from a RANDOM teacher.',
                logger='current',
                level=logging.WARNING,
            )
        self.loaded = True

    def train(self, mode: bool = True) -> 'FrozenTeacher':
        """Stay in eval mode whatever ``mode`` says: the training loop calls ``train()`` every epoch."""
        return super().train(False)

    def __deepcopy__(self, memo: dict) -> 'FrozenTeacher':
        """A copy of the distiller has the same teacher: it never changes, and there need not be two."""
        return self

    def _autocast(self, device: str) -> AbstractContextManager:
        """The number format that the teacher runs in."""
        if self.autocast_dtype is None:
            return nullcontext()
        mixed = self.autocast_dtype != torch.float32
        return torch.autocast(device, self.autocast_dtype if mixed else None, enabled=mixed)

    @staticmethod
    def _find_input_size(size: Any) -> tuple[int, int] | None:
        """The size as (height, width)."""
        try:
            return None if size is None else cell_sides(size, f'{_KEY}.input_size')
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @staticmethod
    def _find_autocast_dtype(name: Any) -> torch.dtype | None:
        """The format by its name."""
        if name is not None and (not isinstance(name, str) or name not in _AUTOCAST_DTYPES):
            raise ConfigError(f'{_KEY}.autocast_dtype={name!r} is no format. {suggest(name, _AUTOCAST_DTYPES)}')
        return _AUTOCAST_DTYPES.get(name)

    def _find_checkpoint(self, checkpoint: Any, zoo_weights: str | None) -> str | None:
        """The path or URL of the weights, checked as far as that goes without reading them."""
        key = f'{_KEY}.checkpoint'
        if checkpoint is True:
            if zoo_weights is None:
                raise ConfigError(f"{key}=True asks for the zoo's weights, but the zoo has none for {_KEY}.model")
            return zoo_weights
        if checkpoint in (None, False, ''):
            if self.allow_random:
                return None
            raise ConfigError(
                f"{key} is missing: set it to a file or URL, or to True for the weights of mmpretrain's zoo. "
                f'(Tests may set {_KEY}.allow_random_teacher=True and distil from noise.)'
            )
        if not isinstance(checkpoint, str):
            raise ConfigError(f'{key} must be a path, a URL or True, but is {checkpoint!r}')
        if '://' not in checkpoint and not self.allow_random:
            check_file(checkpoint, key)
        return checkpoint

    def _fetched(self) -> bool:
        """Whether the weights are at hand on every rank; what keeps one rank from them is raised on all of them."""
        problems = [problem for problem in all_gather_object(fetch_weights(self.checkpoint)) if problem is not None]
        if problems and not self.allow_random:
            raise ConfigError(f'{_KEY}.checkpoint={self.checkpoint!r} could not be fetched: {problems[0]}')
        return not problems
