from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn

from .samples import draw_sample, find_view


@HOOKS.register_module()
class SuperpixelVisualizationHook(Hook):
    """Draw the superpixels of a few validation images after an epoch, on the teacher's and on the student's side.

    The drawings go to the runner's visualizer, and so to every backend that the config has: files, TensorBoard, W&B. See
    :func:`serkd_mm.visualization.drawing.draw`.

    Args:
        interval: Epochs from one drawing to the next.
        num_images: How many images, spread over the validation set.
        view: Name of the view; by default the first with superpixels.

    Raises:
        ValueError: ``interval`` or ``num_images`` is not positive.
    """

    def __init__(self, interval: int = 10, num_images: int = 4, view: str | None = None) -> None:
        for name, value in (('interval', interval), ('num_images', num_images)):
            if value < 1:
                raise ValueError(f'SuperpixelVisualizationHook: {name} must be positive, but got {value}')
        self.interval = interval
        self.num_images = num_images
        self.view = view

    def before_train(self, runner: Runner) -> None:
        """Look for the view.

        Raises:
            ConfigError: There is none of that name.
        """
        find_view(_unwrapped(runner), self.view)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Draw, if it is time for it; a run that only evaluates is at epoch 0, and nothing is drawn."""
        if runner.epoch > 0 and runner.epoch % self.interval == 0:
            self._draw(runner, _unwrapped(runner))

    @master_only
    def _draw(self, runner: Runner, model: nn.Module) -> None:
        dataset, view = runner.val_dataloader.dataset, find_view(model, self.view)
        count = min(self.num_images, len(dataset))
        samples = [dataset[index * len(dataset) // count] for index in range(count)]
        training = model.training
        for number, sample in enumerate(samples):
            runner.visualizer.add_image(f'{view}_{number}', draw_sample(model, sample, view), step=runner.epoch)
        model.train(training)


def _unwrapped(runner: Runner) -> nn.Module:
    """The model without what distributes it."""
    return getattr(runner.model, 'module', runner.model)
