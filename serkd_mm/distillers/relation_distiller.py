from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.models import BaseClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from ..heads import TRAINABLE_HEADS
from .acceleration import Acceleration
from .config_errors import ConfigError, check_keys
from .default_taps import DEFAULT_TAPS, default_taps
from .distillation_terms import DistillationTerms
from .dry_run import default_input_size, dry_run
from .frozen_teacher import FrozenTeacher
from .input_statistics import InputStatistics
from .model_source import find_model, replace_types
from .student_checkpoints import save_as_plain_student
from .taps import Taps

_SETTINGS = ['student', 'teacher', 'views', 'losses', 'input_size', 'data_preprocessor', 'init_cfg']


@MODELS.register_module()
class RelationDistiller(BaseClassifier):
    """A student that learns from its labels and from a frozen teacher (paper, equation 12).

    To mmengine and mmpretrain it is the student: it predicts as the student, and its checkpoints are the student's, with
    what only training needs under ``distill.``. While training, one step is: the teacher sees the batch and its taps fill;
    the student computes its own loss and its taps fill; each view turns a tapped pair into tokens, once; each loss reads
    its view.

    Args:
        student: ``dict(model, taps, compile=False, channels_last=False)``. The model is a dict, a config file or a name of
            mmpretrain's zoo; taps that are left out are found, see :func:`default_taps`; for the other settings see
            :class:`Acceleration`. They take effect in training.
        teacher: ``dict(model, checkpoint, taps)``, see :class:`FrozenTeacher`. None is for evaluation: neither teacher nor
            losses are built, and the model can not be trained.
        views: Named views ``dict(tap, tokenizer, merger)``, see :class:`View`.
        losses: Named losses ``dict(type, on, ...)``, see :class:`DistillationTerms`. ``loss_cls`` is the student's own.
        input_size: Channels, height and width of the images of the dry run that finds shapes and mistakes while the model
            is built; by default what the student's backbone says, or 3 x 224 x 224.
        data_preprocessor: The student's, unless the student's ``model`` has one inside. The runner passes the config's here.
        init_cfg: As in mmengine.

    Raises:
        ConfigError: Anything in the config is wrong, with the key and the nearest valid names.
    """

    def __init__(
        self,
        student: Mapping,
        teacher: Mapping | None = None,
        views: Mapping | None = None,
        losses: Mapping | None = None,
        input_size: Sequence[int] | None = None,
        data_preprocessor: Mapping | None = None,
        init_cfg: Mapping | None = None,
        **unknown: Any,
    ) -> None:
        check_keys(unknown, _SETTINGS, 'model')
        check_keys(student, ['model', 'taps', 'compile', 'channels_last'], 'model.student')
        source = find_model(student.get('model'), 'model.student.model')
        replace_types(source.config, TRAINABLE_HEADS)
        model = source.build('model.student.model', data_preprocessor)
        super().__init__(init_cfg=init_cfg, data_preprocessor=model.data_preprocessor)
        self.student = model
        self._outside: dict[str, FrozenTeacher] = {}
        if teacher is not None:
            self._prepare_training(student, teacher, views, losses, input_size)
        save_as_plain_student(self)

    def _prepare_training(self, student, teacher, views, losses, input_size) -> None:
        """Build what evaluation does not need, and try it out."""
        input_size = self.input_size = tuple(input_size or default_input_size(self.student))
        taps = student.get('taps')
        acceleration = Acceleration.of(student, 'model.student')
        acceleration.lay_out(self.student)
        self.distill = DistillationTerms(views, losses, set(DEFAULT_TAPS if taps is None else taps))
        used_taps = self.distill.used_taps
        if taps is None:
            taps = default_taps(self.student, used_taps, input_size, 'model.student.taps')
        self.student_taps = Taps(self.student, taps, used_taps, 'model.student.taps')
        statistics = InputStatistics.of(self.student.data_preprocessor)
        self._outside['teacher'] = FrozenTeacher(teacher, used_taps, statistics, input_size)
        dry_run(self, input_size)
        # Only now: what the dry run's few images would compile does not suit a whole batch.
        acceleration.compile_backbone(self.student, self.student_taps.modules)
        self.teacher.compile_backbone()

    @property
    def teacher(self) -> FrozenTeacher | None:
        """The teacher, which is no submodule: nothing that walks the model's parameters meets it."""
        return self._outside.get('teacher')

    @property
    def backbone(self) -> nn.Module:
        """The student's backbone."""
        return self.student.backbone

    @property
    def neck(self) -> nn.Module | None:
        """The student's neck."""
        return getattr(self.student, 'neck', None)

    @property
    def head(self) -> nn.Module | None:
        """The student's head."""
        return getattr(self.student, 'head', None)

    def forward(
        self, inputs: torch.Tensor, data_samples: list[DataSample] | None = None, mode: str = 'tensor'
    ) -> torch.Tensor | tuple | list[DataSample] | dict[str, torch.Tensor]:
        """As a classifier of mmpretrain: ``mode`` 'loss' distils, 'predict' and 'tensor' are the student's own.

        Args:
            inputs: Preprocessed images ``(B, 3, H, W)``.
            data_samples: Their labels; needed for ``mode='loss'``.
            mode: 'tensor', 'predict' or 'loss'.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def loss(self, inputs: torch.Tensor, data_samples: list[DataSample]) -> dict[str, torch.Tensor]:
        """Every term of equation 12 by name, weighted; ``loss_cls`` is the student's own.

        Args:
            inputs: Preprocessed images ``(B, 3, H, W)``.
            data_samples: Their labels, soft or hard.

        Raises:
            ConfigError: The model was built for evaluation, or the features do not fit a view or a loss.
        """
        if self.teacher is None:
            raise ConfigError('model.teacher is None: this model was built for evaluation and can not be trained')
        self.teacher.load()
        return self.distillation_step(inputs, data_samples)

    def distillation_step(self, inputs: torch.Tensor, data_samples: list[DataSample]) -> dict[str, torch.Tensor]:
        """As :meth:`loss`, with whatever weights the teacher has: what the dry run needs, which must not read them."""
        teacher_features = self.teacher(inputs)
        with self.student_taps.record(tuple(inputs.shape[-2:])) as student_features:
            own = self.student.loss(inputs, data_samples)
        own = {'loss_cls' if name == 'loss' else name: value for name, value in own.items()}
        return {**own, **self.distill(student_features, teacher_features)}

    def predict(self, inputs: torch.Tensor, data_samples: list[DataSample] | None = None, **kwargs) -> list[DataSample]:
        """The student's predictions for preprocessed images ``(B, 3, H, W)``."""
        return self.student.predict(inputs, data_samples, **kwargs)

    def extract_feat(self, inputs: torch.Tensor, **kwargs) -> Any:
        """The student's features of preprocessed images ``(B, 3, H, W)``."""
        return self.student.extract_feat(inputs, **kwargs)

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Depth of a parameter and of the student, for layer-wise learning rates."""
        return self.student.get_layer_depth(param_name.removeprefix('student.'))

    def init_weights(self) -> None:
        """Initialise the student by its config and read the teacher's weights; the runner calls this before training.

        Raises:
            ConfigError: The teacher's checkpoint can not be read or does not match.
        """
        super().init_weights()
        if self.teacher is not None:
            self.teacher.load()
