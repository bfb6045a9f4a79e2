from collections.abc import Iterator

from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmpretrain.registry import HOOKS
from torch.distributed.fsdp import FullyShardedDataParallel

from ..config_errors import ConfigError
from ..distillers import RelationDistiller
from ..distillers.cached_teacher import CachedTeacher
from .data_errors import DataError, innermost_datasets, lacks
from .runner_models import unwrapped_model


@HOOKS.register_module()
class EvaluationOutputsHook(Hook):
    """Have the model compute what ``KNNAccuracy`` and ``DistillationLosses`` read, and nothing that no metric reads.

    Metrics see predictions only. Pooled features cost another run of the student, and the losses one of both sides.
    """

    def before_run(self, runner: Runner) -> None:
        """Check that the model can compute what the metrics read.

        Raises:
            ConfigError: The model is no ``RelationDistiller``, or there is no teacher for the losses.
            DataError: Images have no label, which ``KNNAccuracy`` compares.
        """
        for split in ('val', 'test'):
            loop = getattr(runner, f'_{split}_loop')
            for metric in _metrics(loop):
                _check(metric, split, runner, loop)

    def before_val_epoch(self, runner: Runner) -> None:
        """Request the outputs of the metrics of the validation."""
        _request(runner, runner.val_loop)

    def before_test_epoch(self, runner: Runner) -> None:
        """Request the outputs of the metrics of the test."""
        _request(runner, runner.test_loop)


def _metrics(loop: BaseLoop) -> Iterator[BaseMetric]:
    """Yield the metrics that read more than predictions; loops are dicts until they are needed."""
    for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
        if hasattr(metric, 'model_output'):
            yield metric


def _request(runner: Runner, loop: BaseLoop) -> None:
    model = unwrapped_model(runner)
    if isinstance(model, RelationDistiller):
        model.evaluation_outputs = frozenset(metric.model_output for metric in _metrics(loop))


def _check(metric: BaseMetric, split: str, runner: Runner, loop: BaseLoop) -> None:
    name, key, model = type(metric).__name__, f'{split}_evaluator', unwrapped_model(runner)
    if not isinstance(model, RelationDistiller):
        raise ConfigError(f'{key}: {name} needs a RelationDistiller, but the model is {type(model).__name__}')
    if metric.model_output == 'distillation_losses' and not model.teachers:
        raise ConfigError(
            f'{key}: {name} needs the teacher, which is part of a training only. Leave it out of {key}; with labels, '
            'KNNAccuracy evaluates the student alone'
        )
    cached = any(isinstance(teacher, CachedTeacher) for teacher in model.teachers.values())
    if metric.model_output == 'distillation_losses' and cached:
        raise ConfigError(
            f'{key}: {name} needs the teacher, but model.teacher.cache holds its outputs for the training images only. Use '
            'KNNAccuracy, or train with model.teacher.cache=None train_dataloader.dataset.cache=None'
        )
    if metric.model_output == 'pooled_features':
        if len(FullyShardedDataParallel.fsdp_modules(runner.model)) > 1:
            raise ConfigError(
                f'{key}: {name} runs parts of the student one by one, which FSDP cannot do where '
                'strategy.model_wrapper.auto_wrap_policy shards them. Remove auto_wrap_policy, or train with DDP'
            )
        for part in innermost_datasets(loop.dataloader.dataset):
            if lacks(part, 'gt_label'):
                raise DataError(
                    f'{key}: {name} compares labels, and the images of {split}_dataloader have none. Use images '
                    "with labels, or, while training, dict(type='DistillationLosses')"
                )
