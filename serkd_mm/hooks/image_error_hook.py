from collections.abc import Iterator

from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor
from torch.utils.data import Dataset

from .data_errors import DataError, datasets


@HOOKS.register_module()
class ImageErrorHook(Hook):
    """Name the file of an image that can not be read or augmented, or that holds numbers which are not finite.

    OpenCV's own message about an empty file, or NumPy's about a picture of another shape, does not say which of a million
    files it was. (An iteration-based loop starts its worker processes before any hook: there, name only with
    ``num_workers=0``.)
    """

    def before_run(self, runner: Runner) -> None:
        """Let the pipelines of all data sets tell the file."""
        for _, dataset in datasets(runner):
            for part in _innermost(dataset):
                if type(getattr(part, 'pipeline', None)) is Compose:
                    part.pipeline = TellingPipeline(part.pipeline)


def _innermost(dataset: Dataset) -> Iterator[Dataset]:
    """The data sets inside wrappers such as ``ConcatDataset`` and ``RepeatDataset``, or the data set itself."""
    inside = getattr(dataset, 'datasets', None) or [part for part in [getattr(dataset, 'dataset', None)] if part is not None]
    for part in inside:
        yield from _innermost(part)
    if not inside:
        yield dataset


class TellingPipeline(Compose):
    """The transforms of a pipeline, with the file of the image in what they raise.

    Args:
        pipeline: The pipeline of a data set.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.transforms = pipeline.transforms

    def __call__(self, data: dict) -> dict | None:
        """Transform one image.

        Raises:
            DataError: A transform failed, or the image is not finite.
        """
        path = data.get('img_path') or f'image {data.get("sample_idx")}'
        try:
            result = super().__call__(data)
        except Exception as error:
            raise DataError(
                f'{path}: {type(error).__name__}: {str(error).strip()}. Replace the file or take it out of the data set; '
                'if every file fails, the pipeline is wrong.'
            ) from error
        image = result.get('inputs') if isinstance(result, dict) else None
        if isinstance(image, Tensor) and image.is_floating_point() and not image.isfinite().all():
            raise DataError(f'{path}: the image holds numbers that are not finite. Replace it or take it out.')
        return result
