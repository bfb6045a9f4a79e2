from collections.abc import Callable, Sequence
from typing import Any

from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from .data_errors import DataError, built_datasets, built_loaders, innermost_datasets


@HOOKS.register_module()
class ImageErrorHook(Hook):
    """Add the file name to errors about images that cannot be read, augmented or batched, or that hold non-finite values.

    The errors of OpenCV about an empty file, or of NumPy about an unexpected shape, do not say which file of the dataset
    caused them. An iteration-based loop starts its worker processes before any hook runs, so there the file is named only
    with ``num_workers=0``.
    """

    def before_run(self, runner: Runner) -> None:
        """Wrap the pipelines of all datasets, and what makes batches of their images."""
        for _, loader in built_loaders(runner):
            loader.collate_fn = ErrorContextCollate(loader.collate_fn)
        for _, dataset in built_datasets(runner):
            for part in innermost_datasets(dataset):
                if type(getattr(part, 'pipeline', None)) is Compose:
                    part.pipeline = ErrorContextPipeline(part.pipeline)


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
            DataError: A transform failed, the pipeline does not pack its result, or the image holds non-finite values.
        """
        path = data.get('img_path') or f'image {data.get("sample_idx")}'
        try:
            result = super().__call__(data)
        except Exception as error:
            raise DataError(
                f'{path}: {type(error).__name__}: {str(error).strip()}. Replace the file or remove it from the dataset. '
                'If every file fails, the pipeline is wrong.'
            ) from error
        if isinstance(result, dict) and 'inputs' not in result:
            raise DataError(f"{path}: the pipeline returns no 'inputs'. Add dict(type='PackInputs') at its end.")
        image = result.get('inputs') if isinstance(result, dict) else None
        if isinstance(image, Tensor) and image.is_floating_point() and not image.isfinite().all():
            raise DataError(f'{path}: the image holds values that are not finite. Replace the file or remove it.')
        return result


class ErrorContextCollate:
    """Make a batch, and name two files in the error about images of different sizes.

    Args:
        collate: The function of the dataloader.
    """

    def __init__(self, collate: Callable[[Sequence], Any]) -> None:
        self.collate = collate

    def __call__(self, images: Sequence) -> Any:
        """Make a batch of images.

        Args:
            images: What the pipeline has returned for each image.

        Raises:
            DataError: The images have different sizes.
        """
        try:
            return self.collate(images)
        except RuntimeError as error:
            shapes = {}
            for image in images:
                if not isinstance(image, dict) or not isinstance(image.get('inputs'), Tensor):
                    raise
                shapes.setdefault(tuple(image['inputs'].shape), getattr(image.get('data_samples'), 'img_path', 'an image'))
            if len(shapes) < 2:
                raise
            (one, first), (two, second), *_ = shapes.items()
            raise DataError(
                f'{first} has the shape {one} after the pipeline, and {second} has {two}. A batch needs images of one size: '
                'add a crop or a resize to one size to the pipeline.'
            ) from error
