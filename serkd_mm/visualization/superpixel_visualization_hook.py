from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from .samples import draw_sample, find_view


@HOOKS.register_module()
class SuperpixelVisualizationHook(Hook):
    """Draw the superpixels of the teacher and of the student for a few validation images.

    The drawings are added to the runner's visualizer, and so to all its backends: files, TensorBoard, W&B. See
    :func:`serkd_mm.visualization.drawing.draw`.

    Args:
        interval: Number of epochs between two drawings. Default: 10.
        num_images: Number of images, evenly spaced in the validation set. Default: 4.
        view: Name of the view. Default: None, the first with superpixels.
        tap: Name of a tap of the view. Default: None, the view's first.

    Raises:
        ValueError: ``interval`` or ``num_images`` is not positive.
    """

    def __init__(self, interval: int = 10, num_images: int = 4, view: str | None = None, tap: str | None = None) -> None:
        for name, value in (('interval', interval), ('num_images', num_images)):
            if value < 1:
                raise ValueError(f'SuperpixelVisualizationHook: {name} must be positive, but got {value}')
        self.interval, self.num_images, self.view, self.tap = interval, num_images, view, tap

    def before_train(self, runner: Runner) -> None:
        """Check that the view and the tap exist.

        Raises:
            ConfigError: There is no view or tap of that name.
        """
        find_view(getattr(runner.model, 'module', runner.model), self.view, self.tap)

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Draw every ``interval`` epochs. A run that only evaluates is at epoch 0 and draws nothing."""
        if runner.epoch == 0 or runner.epoch % self.interval:
            return
        model, dataset = getattr(runner.model, 'module', runner.model), runner.val_dataloader.dataset
        view = find_view(model, self.view, self.tap)
        count = min(self.num_images, len(dataset))
        samples = [dataset[index * len(dataset) // count] for index in range(count)]
        training = model.training
        for number, sample in enumerate(samples):
            runner.visualizer.add_image(
                f'{view}_{number}', draw_sample(model, sample, view, tap=self.tap), step=runner.epoch
            )
        model.train(training)
