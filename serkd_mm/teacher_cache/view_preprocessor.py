from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from .errors import CacheError
from .view_mixing import check_pairs, mix_images, mix_scores


@MODELS.register_module()
class ViewPreprocessor(ClsDataPreprocessor):
    """mmpretrain's ``ClsDataPreprocessor``, which mixes the pairs of :class:`RepeatableViews` instead of random mates.

    Images without ``view_mix``, and all images in evaluation, are preprocessed as by the parent class.

    Args:
        batch_augments: Must be None or empty; mmpretrain passes a classifier's ``train_cfg`` here. Default: None.
        settings: Settings of ``ClsDataPreprocessor``. Labels of mixed images need ``to_onehot=True`` and ``num_classes``.

    Raises:
        CacheError: There are batch augmentations, or images are padded.
    """

    def __init__(self, batch_augments: Mapping | None = None, **settings: Any) -> None:
        if batch_augments:
            raise CacheError(
                "train_cfg.augments (data_preprocessor.batch_augments) draws its mates from each batch, so a teacher's "
                'outputs for the mixed images could not be stored. Set train_cfg=None in the student, and mix with '
                f'train_dataloader.dataset=dict(type="RepeatableViews", augments={dict(batch_augments)!r}, ...)'
            )
        super().__init__(**settings)
        if self.pad_size_divisor > 1:
            raise CacheError(
                f'data_preprocessor.pad_size_divisor={self.pad_size_divisor}: no cache records how images are padded: '
                'crop or resize them to a multiple of it in the pipeline, and leave the setting out'
            )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess a batch, and mix its pairs.

        Args:
            data: ``inputs`` and ``data_samples``, as the dataloader returns them.
            training: Whether to mix. Default: False.

        Raises:
            CacheError: The images differ in size, the batch does not consist of pairs, the labels are not soft, or a hook
                has set batch augmentations.
        """
        if training and self.batch_augments is not None:
            raise CacheError(
                'A hook has set batch augmentations, as SwitchRecipeHook does: they would mix the images '
                'once more. Remove it from custom_hooks'
            )
        if training:
            _check_one_size(data['inputs'], data.get('data_samples') or ())
        batch = super().forward(data, training)
        samples = batch['data_samples']
        if not training or not samples or all('view_mix' not in sample for sample in samples):
            return batch
        mixes = [sample.get('view_mix') for sample in samples]
        check_pairs(mixes)
        if not all(mix.is_identity for mix in mixes):
            batch['inputs'] = mix_images(batch['inputs'], mixes)
        if 'gt_score' in samples[0]:
            scores = torch.stack([sample.gt_score for sample in samples]).float()
            for sample, score in zip(samples, mix_scores(scores, mixes), strict=True):
                sample.set_gt_score(score)
        elif 'gt_label' in samples[0]:
            raise CacheError(
                'data_preprocessor: the images are mixed, but not their labels. Set data_preprocessor.to_onehot=True and '
                'data_preprocessor.num_classes'
            )
        return batch


def _check_one_size(inputs: Tensor | Sequence[Tensor], samples: Sequence[DataSample]) -> None:
    """Raise if images that are mixed, or have a record, would be padded to the largest one of their batch."""
    shapes = [] if isinstance(inputs, Tensor) else sorted({tuple(image.shape) for image in inputs})
    if len(shapes) > 1 and any('view_mix' in sample or 'teacher_record' in sample for sample in samples):
        raise CacheError(
            f'The images of a batch have the shapes {shapes[0]} and {shapes[-1]} after the pipeline, so their padding would '
            'depend on the others of the batch. Add a crop or a resize to one size to the pipeline'
        )
