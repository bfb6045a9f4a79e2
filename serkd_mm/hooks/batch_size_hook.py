from mmengine.dataset.sampler import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from .data_errors import DataError


@HOOKS.register_module()
class BatchSizeHook(Hook):
    """Report batches that train nothing: epochs without any, and losses that need more images.

    Losses between the images of a batch (``InstanceDistanceLoss``, ``InstanceAngleLoss``) are exactly 0 for one or two
    images on each rank. A smaller last batch is no error.
    """

    def before_run(self, runner: Runner) -> None:
        """Check the number and the size of the batches of a rank.

        Raises:
            DataError: An epoch has no batch, or a loss is 0 for every batch.
        """
        loader = getattr(runner._train_loop, 'dataloader', None)
        if loader is None:
            return
        check_number_of_batches(loader, 'train_dataloader')
        batch_size = getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None)
        if batch_size is None:
            return
        for name, loss in _losses(runner.model).items():
            if batch_size < loss.min_batch_size:
                raise DataError(
                    f'train_dataloader.batch_size={batch_size}: model.losses.{name} ({type(loss).__name__}) relates the '
                    f'images of a batch on each rank, and is always 0 for fewer than {loss.min_batch_size}. Use larger '
                    f'batches, or remove the loss with {name}=None'
                )


def check_number_of_batches(loader: DataLoader, key: str) -> None:
    """Check that a dataloader has batches.

    Args:
        loader: A built dataloader.
        key: Its config key.

    Raises:
        DataError: It has none.
    """
    if isinstance(getattr(loader.batch_sampler, 'sampler', None), InfiniteSampler) or len(loader):
        return
    raise DataError(
        f'{key}: {len(loader.dataset)} images for {get_world_size()} rank(s) with a batch size of '
        f'{loader.batch_sampler.batch_size} make no batch'
        + (', because drop_last=True drops the only one. Use smaller batches or drop_last=False' if loader.dataset else '')
    )


def _losses(model: nn.Module) -> dict[str, nn.Module]:
    """A loss of each name; the losses of several taps are equal."""
    model = model.module if is_model_wrapper(model) else model
    losses = getattr(getattr(model, 'distill', None), 'losses', {})
    return {name: next(iter(by_tap.values())) for name, by_tap in losses.items()}
