import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from .data_errors import DataError, datasets


@HOOKS.register_module()
class LabelRangeHook(Hook):
    """Refuse labels that the head has no output for, before the first iteration, and warn where it has outputs to spare.

    On a GPU such a label ends a run with a "device-side assert" that names nothing. Heads without ``num_classes`` are not
    checked.
    """

    def before_run(self, runner: Runner) -> None:
        """Look at the labels of all data sets.

        Raises:
            DataError: A label is negative, or not below the number of the head's outputs.
        """
        num_outputs = _num_outputs(runner.model)
        if num_outputs is None:
            return
        for key, dataset in datasets(runner):
            _check_labels(key, dataset, num_outputs)
            num_classes = len(getattr(dataset, 'metainfo', {}).get('classes') or ())
            if 0 < num_classes < num_outputs:
                runner.logger.warning(
                    f'{key} has {num_classes} classes and the head {num_outputs} outputs. Class i of the data is output i '
                    'of the student and of the teacher: give the data set `classes` if its folders are not the first ones.'
                )


def _num_outputs(model: nn.Module) -> int | None:
    """How many classes the innermost model's head tells apart."""
    while hasattr(model, 'module'):  # Distributed, or wrapped for test-time augmentation.
        model = model.module
    return getattr(getattr(model, 'head', None), 'num_classes', None)


def _check_labels(key: str, dataset: BaseDataset, num_outputs: int) -> None:
    if not hasattr(dataset, 'get_data_info'):
        return
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        label = info.get('gt_label', ())
        for number in (label,) if isinstance(label, int) else np.ravel(label):  # Several, of a multi-label data set.
            if not 0 <= number < num_outputs:
                raise DataError(
                    f'{key}: {info.get("img_path", f"image {index}")} has the label {number}, and the head has '
                    f'{num_outputs} outputs, 0 to {num_outputs - 1}. Annotation files count from 0; otherwise set '
                    f'num_classes={number + 1} or more in the head and in data_preprocessor.'
                )
