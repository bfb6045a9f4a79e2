from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmpretrain.evaluation import Accuracy, ConfusionMatrix, SingleLabelMetric
from mmpretrain.registry import HOOKS

from ..config_errors import ConfigError
from ..distillers import RelationDistiller
from ..distillers.model_parts import num_classes_of
from .runner_models import unwrapped_model

_READ_CLASSES = (Accuracy, SingleLabelMetric, ConfusionMatrix)


@HOOKS.register_module()
class UntrainedHeadHook(Hook):
    """Record in checkpoints that nothing has trained the class head, and refuse to report its accuracy.

    A student that is trained without labels and without a logit loss has no head, or one with random weights.
    ``tools/export_student.py`` leaves such a head out.
    """

    def before_run(self, runner: Runner) -> None:
        """Check the metrics.

        Raises:
            ConfigError: One reads the predictions of a head that nothing trains.
        """
        model = unwrapped_model(runner)
        if isinstance(model, RelationDistiller) and (model.untrained_head or num_classes_of(model.student) == 0):
            _check_metrics(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record the names of the head's entries, and of other layers that nothing trains."""
        for name in ('untrained_head', 'untrained_layers'):
            checkpoint['meta'][name] = list(getattr(unwrapped_model(runner), name, ()))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the metrics of an evaluation.

        Raises:
            ConfigError: One reads the predictions of a head that nothing has trained.
        """
        if not isinstance(runner._train_loop, BaseLoop) and checkpoint.get('meta', {}).get('untrained_head'):
            _check_metrics(runner)


def _check_metrics(runner: Runner) -> None:
    for split in ('val', 'test'):
        for metric in getattr(getattr(getattr(runner, f'_{split}_loop'), 'evaluator', None), 'metrics', ()):
            if isinstance(metric, _READ_CLASSES):
                raise ConfigError(
                    f'{split}_evaluator: {type(metric).__name__} reads the class head of the student, which nothing trains '
                    '(model.losses.loss_cls=None, and no loss reads the logits). Use KNNAccuracy if the images have labels, '
                    'or, while training, DistillationLosses'
                )
