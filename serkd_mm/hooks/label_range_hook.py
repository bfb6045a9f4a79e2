import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ClsHead
from mmpretrain.registry import HOOKS

from ..config_errors import ConfigError
from ..distillers.model_parts import is_wrapper, num_classes_of
from .data_errors import DataError, innermost_datasets, labeled_datasets, lacks
from .runner_models import unwrapped_model


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Reject labels outside the range of the head's outputs before the first iteration, and warn about unused outputs.

    On a GPU, such a label ends a run with a "device-side assert" that names neither the image nor the label. Heads without
    ``num_classes`` are not checked.
    """

    def before_run(self, runner: Runner) -> None:
        """Check the labels of all datasets.

        Raises:
            DataError: A label is negative, or not smaller than the number of outputs of the head; an image has several
                labels, which the head cannot learn; or the training images have none, and the distillation needs them.
            ConfigError: An accuracy counts more classes than the head has, such as top-5 of 4 classes.
        """
        model = unwrapped_model(runner)
        if getattr(model, 'label_free', False) and (model.untrained_head or not model.teachers):
            return  # No output stands for a label.
        student = getattr(model, 'student', model)
        num_outputs = num_classes_of(student)
        if not num_outputs:
            return
        one_label = is_wrapper(student) or isinstance(getattr(student, 'head', None), ClsHead)
        _check_topk(runner, num_outputs)
        for key, dataset in labeled_datasets(runner):
            if one_label and getattr(model, 'label_free', None) is False and key.startswith('train_'):
                _check_there_are_labels(key, dataset)
            _check_labels(key, dataset, num_outputs, one_label)
            num_classes = len(getattr(dataset, 'metainfo', {}).get('classes') or ())
            if 0 < num_classes < num_outputs:
                runner.logger.warning(
                    f'{key} has {num_classes} classes, but the head has {num_outputs} outputs. Class i of the dataset is '
                    'output i of student and teacher: set `classes` in the dataset if its folders are not the first ones.'
                )


def _check_topk(runner: Runner, num_outputs: int) -> None:
    """Report an accuracy that mmpretrain would reject after the first epoch."""
    for split in ('val', 'test'):
        evaluator = getattr(getattr(runner, f'_{split}_loop'), 'evaluator', None)
        for metric in getattr(evaluator, 'metrics', ()):
            if isinstance(metric, Accuracy) and max(metric.topk) > num_outputs:
                raise ConfigError(
                    f'{split}_evaluator.topk={metric.topk}, but the head has {num_outputs} outputs. Set topk=1, or all of '
                    f'its numbers to {num_outputs} or less'
                )


def _check_there_are_labels(key: str, dataset: BaseDataset) -> None:
    if lacks(dataset, 'gt_label', 'gt_score'):
        raise DataError(
            f"{key}: the images have no labels, which the student's task loss needs. Train without labels with "
            'model.losses.loss_cls=None, or use a dataset with labels (with_label=True)'
        )


def _check_labels(key: str, dataset: BaseDataset, num_outputs: int, one_label: bool = False) -> None:
    if not hasattr(dataset, 'get_data_info'):
        return
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        label = info.get('gt_label', ())
        numbers = (label,) if isinstance(label, int) else np.ravel(label)  # A multi-label dataset has several.
        if len(numbers) > 1 and one_label and 'gt_score' not in info:
            raise DataError(
                f'{key}: {info.get("img_path", f"image {index}")} has {len(numbers)} labels, and the head learns one. Use a '
                'head for several labels, such as MultiLabelLinearClsHead, or a dataset with one label per image.'
            )
        for number in numbers:
            if not 0 <= number < num_outputs:
                raise DataError(
                    f'{key}: {info.get("img_path", f"image {index}")} has the label {number}, and the head has '
                    f'{num_outputs} outputs, 0 to {num_outputs - 1}. {_advice(dataset, number)}'
                )


def _advice(dataset: BaseDataset, label: int) -> str:
    """What to do about a label that is out of range, by the origin of the labels."""
    for part in innermost_datasets(dataset):
        folders = getattr(part, 'folder_to_idx', None)
        if folders and label in folders.values():
            names = ', '.join(map(repr, list(folders)[:5])) + (', ...' if len(folders) > 5 else '')
            return (
                f'{part.img_prefix} has {len(folders)} folders ({names}), and each counts as a class, in alphabetical '
                'order. Remove or move those that are not classes. If all are, set '
                f'num_classes={len(folders)} in the head and in data_preprocessor.'
            )
    return (
        'Labels in annotation files start at 0. If these do, '
        f'set num_classes={label + 1} or more in the head and in data_preprocessor.'
    )
