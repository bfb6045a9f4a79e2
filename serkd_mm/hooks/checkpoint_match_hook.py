from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..fileio import CheckpointError

# Backbones resize these when they load, so their shapes may differ.
_RESIZED = ('pos_embed', 'relative_position', 'rel_pos', 'absolute_pos')


@HOOKS.register_module()
class CheckpointMatchHook(Hook):
    """Refuse a checkpoint of another model, such as a teacher's file where a student's is needed.

    mmengine loads what fits and logs the rest, so a test would evaluate random weights. In a test no entry may have another
    shape; in a training that starts from a checkpoint, a new head may, but not most entries.
    """

    priority = 'VERY_LOW'  # After the hooks that restore a checkpoint.

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the names and shapes of the weights with those of the model.

        Raises:
            CheckpointError: No name is one of the model's, or shapes differ.
        """
        if not isinstance(runner, Runner):
            return  # The strategies of FlexibleRunner shard the weights.
        state = {name.removeprefix('module.'): value for name, value in checkpoint.get('state_dict', checkpoint).items()}
        model = runner.model
        while hasattr(model, 'module'):  # Wrapped for distributed training or test-time augmentation.
            model = model.module
        own = {name: value for name, value in model.state_dict().items() if not name.startswith('distill.')}
        common = [name for name in own if name in state and hasattr(state[name], 'shape')]
        different = [
            name for name in common if state[name].shape != own[name].shape and not any(part in name for part in _RESIZED)
        ]
        where = f'load_from={str(runner._load_from)!r}'
        if own and not common:
            raise CheckpointError(f'{where} has no weight of this model ({type(model).__name__}): it is of another model')
        training = hasattr(runner._train_loop, 'dataloader')
        if different and (not training or len(different) > len(common) / 2):
            name = different[0]
            raise CheckpointError(
                f'{where} holds the weights of another model, of a teacher or another size for example: {len(different)} of '
                f'{len(common)} entries have another shape, {name} {tuple(state[name].shape)} instead of '
                f'{tuple(own[name].shape)}. Give the checkpoint of the student, or the config that the file belongs to'
            )
