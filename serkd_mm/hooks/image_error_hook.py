from collections.abc import Iterator

from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor
from torch.utils.data import Dataset

from .data_errors import DataError, built_datasets


@HOOKS.register_module()
class ImageErrorHook(Hook):
    """Add the file name to errors about images that cannot be read or augmented, or that hold non-finite values.

    The errors of OpenCV about an empty file, or of NumPy about an unexpected shape, do not say which file of the dataset
    caused them. An iteration-based loop starts its worker processes before any hook runs, so there the file is named only
    with ``num_workers=0``.
    """

    def before_run(self, runner: Runner) -> None:
        """Wrap the pipelines of all datasets."""
        for _, dataset in built_datasets(runner):
            for part in _innermost(dataset):
                if type(getattr(part, 'pipeline', None)) is Compose:
                    part.pipeline = ErrorContextPipeline(part.pipeline)


def _innermost(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the datasets inside wrappers such as ``ConcatDataset`` and ``RepeatDataset``, or the dataset itself."""
    inner = getattr(dataset, 'datasets', None) or [part for part in [getattr(dataset, 'dataset', None)] if part is not None]
    for part in inner:
        yield from _innermost(part)
    if not inner:
        yield dataset


class ErrorContextPipeline(Compose):
    """Run the transforms of a pipeline, and name the image file in the errors that they raise.

    Args:
        pipeline: The pipeline of a dataset.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.transforms = pipeline.transforms

    def __call__(self, data: dict) -> dict | None:
        """Transform one image.

        Args:
            data: Information about the image, as the dataset returns it.

        Returns:
            The transformed image and its labels; None if a transform rejects the image.

        Raises:
            DataError: A transform failed, or the image holds non-finite values.
        """
        path = data.get('img_path') or f'image {data.get("sample_idx")}'
        try:
            result = super().__call__(data)
        except Exception as error:
            raise DataError(
                f'{path}: {type(error).__name__}: {str(error).strip()}. Replace the file or remove it from the dataset. '
                'If every file fails, the pipeline is wrong.'
            ) from error
        image = result.get('inputs') if isinstance(result, dict) else None
        if isinstance(image, Tensor) and image.is_floating_point() and not image.isfinite().all():
            raise DataError(f'{path}: the image holds values that are not finite. Replace the file or remove it.')
        return result
