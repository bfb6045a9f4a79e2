from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmpretrain.models import BaseClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from ..config_errors import ConfigError, check_keys, without_none
from ..losses.schedules import ScheduledSettings
from ..tokenizers import Feature
from .cached_teacher import CachedTeacher
from .distillation_objective import DistillationObjective
from .dry_run import check_float32, check_input_size, default_input_size, dry_run
from .execution_options import ExecutionOptions
from .frozen_teacher import FrozenTeacher
from .label_free import check_losses, check_mixing, is_label_free
from .model_parts import backbone_of, num_classes_of, pooled_features
from .student_checkpoints import register_plain_student_hooks
from .student_weights import StudentWeights
from .students import build_student, tap_names, tap_student
from .targets import Targets
from .task_loss import TASK_LOSS, TaskLoss, float_labels, num_label_classes, soft_labels
from .teacher_names import teacher_settings
from .teachers import build_teachers

_SETTINGS = ['student', 'teacher', 'teachers', 'views', 'losses', 'input_size', 'data_preprocessor', 'init_cfg']


@MODELS.register_module()
class RelationDistiller(BaseClassifier):
    """A student that learns from labels and from frozen teachers: equation 12 of SeRKD (arXiv:2503.21269).

    For mmengine and mmpretrain it is the student: it predicts as the student, and its checkpoints are the student's, plus
    what only training needs under ``distill.``. A training step: each teacher runs and its taps fill, or its stored outputs
    are read; the student computes its task loss and its taps fill; each view turns tapped features into tokens, once; each
    loss reads its view.

    Args:
        student: ``dict(model, checkpoint=None, taps=None, compile=False, channels_last=False)``. For the model see
            :func:`find_model`. The checkpoint is what training starts from, see :class:`StudentWeights`. Taps that are left
            out are found, see :func:`default_taps`. For the other settings see :class:`ExecutionOptions`; they take effect
            in training.
        teacher: ``dict(model, checkpoint, ...)``, see :class:`TeacherConfig`, or with ``cache``, a folder of the teacher's
            stored outputs, which are read instead of running it, see :class:`CachedTeacher`. Without any teacher the model
            is for evaluation: losses are not built either, and it cannot be trained. Default: None.
        views: Views by name, ``dict(tap, tokenizer, merger, refiner=None)``, see :class:`View`. Default: None.
        losses: Losses by name, ``dict(type, on, ...)``, see :class:`DistillationObjective`. ``loss_cls`` is the student's
            task loss; ``loss_cls=dict(loss_weight=0.5)`` weights it, see :class:`TaskLoss`, and ``loss_cls=None`` trains
            without labels. What no loss reads, such as the class head, is then frozen, and a part of the backbone that no
            loss reads is an error. Default: None.
        input_size: Channels, height and width of the images of the dry run that finds shapes and errors while the model is
            built. A student whose size is fixed, as that of many models of timm, is built for it. Default: None, the size
            of the student's backbone, or 3 x 224 x 224.
        data_preprocessor: The student's, unless the student's ``model`` has one inside. The runner passes the config's here.
            Without labels, :class:`LabelFreePreprocessor` replaces ``ClsDataPreprocessor``.
        init_cfg: As in mmengine.
        teachers: Several teachers by name instead of ``teacher``, without ``cache``. A view, or a loss on a tap, names the
            one that it reads: ``teacher='NAME'``. Default: None.

    Attributes:
        teachers: The teachers by name; 'teacher' is the name of ``model.teacher``. Empty if the model was built for
            evaluation. They are not submodules.
        label_free: Whether the student's task loss is left out, so that no labels are needed.
        untrained_head: Names of the entries of the class head in a checkpoint, if nothing trains it.
        untrained_layers: Names of layers between the last block and the class head that nothing trains.
        evaluation_outputs: What predictions contain in addition, see :meth:`predict`.

    Raises:
        ConfigError: Anything in the config is wrong; the message has the key and the nearest valid names.
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
        teachers: Mapping | None = None,
        **unknown: Any,
    ) -> None:
        check_keys(unknown, _SETTINGS, 'model')
        input_size, label_free = check_input_size(input_size), is_label_free(losses)
        model, source = build_student(student, data_preprocessor, input_size, label_free)
        super().__init__(init_cfg=init_cfg, data_preprocessor=model.data_preprocessor)
        self.student, self.label_free = model, label_free
        # The losses with a schedule, and their names; a list does not register them a second time.
        self._scheduled: list[tuple[str, ScheduledSettings]] = []
        self._has_progress = False
        self.untrained_head: list[str] = []
        self.untrained_layers: list[str] = []
        self.evaluation_outputs: frozenset[str] = frozenset()
        # nn.Module does not register what is in a dict: state dicts, optimizers and DDP never see a teacher.
        self.teachers: dict[str, FrozenTeacher | CachedTeacher] = {}
        settings = teacher_settings(teacher, teachers)
        if settings:
            input_size = input_size or default_input_size(self.student)
            self._student_weights = StudentWeights(student.get('checkpoint'), source)
            self._prepare_training(student, settings, teachers is not None, views, losses, input_size)
        register_plain_student_hooks(self)

    def _prepare_training(self, student, teachers, several, views, losses, input_size) -> None:
        """Build what evaluation does not need, and run it once."""
        check_float32(self.student)
        if self.label_free:
            check_mixing(self.student.data_preprocessor)
        self.input_size = input_size
        execution = ExecutionOptions.from_config(student, 'model.student')
        execution.apply_memory_format(self.student)
        taps = student.get('taps')
        losses = without_none(losses, 'model.losses')
        self.task_loss = TaskLoss(losses.pop(TASK_LOSS, None))
        self.distill = DistillationObjective(views, losses, tap_names(taps), list(teachers) if several else None)
        self._scheduled += self.distill.scheduled()
        self._scheduled += [(TASK_LOSS, self.task_loss)] if self.task_loss.schedules else []
        check_losses(self.student, self.distill.losses, self.distill.readers_of_labels, self.label_free)
        self.student_taps = tap_student(self.student, taps, self.distill.used_taps, input_size, self.label_free)
        self.teachers.update(build_teachers(teachers, several, self.distill, self.student, input_size))
        dry_run(self, input_size)
        # Compile after the dry run: code compiled for its two images would not fit a whole batch.
        execution.compile_backbone(self.student, self.student_taps.modules)
        for teacher in self.teachers.values():
            if isinstance(teacher, FrozenTeacher):
                teacher.shorten()

    @property
    def teacher(self) -> FrozenTeacher | CachedTeacher | None:
        """The only teacher; None if there are several, or if the model was built for evaluation."""
        return next(iter(self.teachers.values())) if len(self.teachers) == 1 else None

    @property
    def backbone(self) -> nn.Module:
        """The student's backbone; the whole net of a student of timm or Hugging Face."""
        return backbone_of(self.student)

    @property
    def neck(self) -> nn.Module | None:
        """The student's neck."""
        return getattr(self.student, 'neck', None)

    @property
    def head(self) -> nn.Module | None:
        """The student's head."""
        return getattr(self.student, 'head', None)

    def forward(self, inputs: torch.Tensor, data_samples: list[DataSample] | None = None, mode: str = 'tensor') -> Any:
        """Run as a classifier of mmpretrain: ``mode='loss'`` distills, 'predict' and 'tensor' are the student's.

        Args:
            inputs: Preprocessed images ``(B, 3, H, W)``.
            data_samples: Their labels; needed for ``mode='loss'``. Default: None.
            mode: 'tensor', 'predict' or 'loss'. Default: 'tensor'.

        Returns:
            Logits, data samples with predictions, or losses by name.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def loss(self, inputs: torch.Tensor, data_samples: list[DataSample]) -> dict[str, torch.Tensor]:
        """Compute every term of equation 12 by name, weighted; ``loss_cls`` is the student's task loss.

        Args:
            inputs: Preprocessed images ``(B, 3, H, W)``.
            data_samples: Their labels, soft or hard.

        Raises:
            ConfigError: The model was built for evaluation, the features do not fit a view or a loss, or a setting of a
                loss is a schedule and nothing calls :meth:`set_progress`.
        """
        self._load_teachers()
        self._check_progress()
        return self.distillation_step(inputs, data_samples)

    def distillation_step(self, inputs: torch.Tensor, data_samples: list[DataSample]) -> dict[str, torch.Tensor]:
        """Compute the losses as :meth:`loss` does, without loading the teachers' weights (the dry run must not)."""
        targets = self.targets(inputs, data_samples)
        if self.label_free:
            return self.distill(self._run_student(inputs, self.student)[0], targets)
        student, task_losses = self._run_student(inputs, partial(self.student.loss, data_samples=data_samples))
        labels = None
        if self.distill.readers_of_labels:
            labels = soft_labels(data_samples, num_label_classes(self.student), inputs.device)
        return {**self.task_loss(task_losses), **self.distill(student, targets, labels)}

    def set_progress(self, progress: float) -> None:
        """Set the settings of losses that are schedules to their value at a moment of the training.

        ``LossScheduleHook`` calls this before each iteration; a training loop without mmengine's hooks does it itself.

        Args:
            progress: Finished iterations over all iterations, from 0 to 1.
        """
        for _, loss in self._scheduled:
            loss.set_progress(progress)
        self._has_progress = True

    def scheduled_settings(self) -> dict[str, float]:
        """Return the present value of each setting that is a schedule: 'weight_kd' for ``loss_kd.loss_weight``.

        The names lack 'loss', by which mmengine finds the losses that it averages in the log.
        """
        return {
            f'{setting.removeprefix("loss_")}_{name.removeprefix("loss_")}': getattr(loss, setting)
            for name, loss in self._scheduled
            for setting in loss.schedules
        }

    def _check_progress(self) -> None:
        """Raise if a schedule would keep its first value for the whole training."""
        if self._scheduled and not self._has_progress:
            name, loss = self._scheduled[0]
            raise ConfigError(
                f'model.losses.{name}.{next(iter(loss.schedules))} is a schedule, and nothing moves it. Add '
                "dict(type='LossScheduleHook') to custom_hooks, as in configs/_base_/runtime.py, or call "
                'model.set_progress(finished iterations / all iterations) before each step'
            )

    def targets(self, inputs: torch.Tensor, data_samples: list[DataSample]) -> Targets:
        """Return what the losses compare the student with: computed by each teacher, or read from a cache.

        Args:
            inputs: Preprocessed images ``(B, 3, H, W)``, for the teachers.
            data_samples: Their records, for a cache.
        """
        if isinstance(self.teacher, CachedTeacher):
            return self.teacher(data_samples, inputs.device)
        return Targets.join(self.distill.targets(teacher(inputs), name) for name, teacher in self.teachers.items())

    def extract_features(self, inputs: torch.Tensor) -> tuple[dict[str, Feature], dict]:
        """Collect the tapped features of both sides.

        Args:
            inputs: Images ``(B, 3, H, W)``, preprocessed for the student.

        Returns:
            The student's features by tap, and the teacher's by tap, without a graph. The latter are by name of the teacher,
            then by tap, if there are several.

        Raises:
            ConfigError: The model was built for evaluation or with ``teacher.cache``, or a teacher's weights cannot be
                loaded.
        """
        self._load_teachers()
        if isinstance(self.teacher, CachedTeacher):
            raise ConfigError(
                f'model.teacher.cache={self.teacher.folder!r}: the teacher is not built, so its features cannot be '
                'computed. Set model.teacher.cache=None'
            )
        features = {name: teacher(inputs) for name, teacher in self.teachers.items()}
        student, _ = self._run_student(inputs, self.student)
        return student, features if self.teacher is None else next(iter(features.values()))

    def _load_teachers(self) -> None:
        """Load the teachers' weights, unless that has been done."""
        if not self.teachers:
            raise ConfigError('model.teacher is None: this model was built for evaluation and has nothing to distill from')
        for teacher in self.teachers.values():
            teacher.load()

    def _run_student(self, inputs: torch.Tensor, run: Callable) -> tuple[dict[str, Feature], Any]:
        """Run the student once; return its features and its output."""
        with self.student_taps.record(tuple(inputs.shape[-2:])) as features:
            output = run(inputs)
        return features, output

    def predict(self, inputs: torch.Tensor, data_samples: list[DataSample] | None = None, **kwargs) -> list[DataSample]:
        """Predict with the student, for preprocessed images ``(B, 3, H, W)``.

        Predictions also contain what :attr:`evaluation_outputs` names, which ``EvaluationOutputsHook`` sets for the metrics:
        ``pooled_features``, those of the student ``(C,)``, and ``distillation_losses``, the losses of the batch by name.
        """
        outputs = {}
        if 'distillation_losses' in self.evaluation_outputs:
            outputs['distillation_losses'] = self.loss(inputs, float_labels(data_samples))
        if 'pooled_features' in self.evaluation_outputs:
            outputs['pooled_features'] = pooled_features(self.student, inputs)
        if num_classes_of(self.student) == 0:
            predictions = data_samples or [DataSample() for _ in inputs]
        else:
            predictions = self.student.predict(inputs, data_samples, **kwargs)
        for index, sample in enumerate(predictions):
            for name, value in outputs.items():
                sample.set_data({name: value[index] if isinstance(value, torch.Tensor) else value})
        return predictions

    def extract_feat(self, inputs: torch.Tensor, **kwargs) -> Any:
        """Extract the student's features of preprocessed images ``(B, 3, H, W)``, as mmpretrain's classifiers do."""
        return self.student.extract_feat(inputs, **kwargs)

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Return the depth of a parameter and of the student, for layer-wise learning rates."""
        return self.student.get_layer_depth(param_name.removeprefix('student.'))

    def init_weights(self) -> None:
        """Initialize the student, load the weights that it starts from and the teachers'; the runner calls this once.

        Raises:
            ConfigError: A checkpoint cannot be read or does not match.
        """
        super().init_weights()
        if self.teachers:
            self._student_weights.load(self.student)
        for teacher in self.teachers.values():
            teacher.load()
