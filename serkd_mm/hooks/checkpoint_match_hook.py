from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..fileio import CheckpointError

# Backbones resize these when they load, so their shapes may differ.
_RESIZED = ('pos_embed', 'relative_position', 'rel_pos', 'absolute_pos')


@HOOKS.register_module()
class CheckpointMatchHook(Hook):
    """Refuse a training that starts from a checkpoint of another model, such as the teacher's file.

    mmengine loads what fits and logs the rest, so the student would start from random weights. A part may differ, as the
    head of a model for other classes does; a checkpoint of which no or few entries fit is refused. For evaluations see
    ``CompleteCheckpointHook``.
    """

    priority = 'VERY_LOW'  # After the hooks that restore a checkpoint.

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the names and shapes of the weights with those of the model.

        Raises:
            CheckpointError: No name is one of the model's, or most shapes differ.
        """
        if not isinstance(runner, Runner) or not hasattr(runner._train_loop, 'dataloader'):
            return  # The strategies of FlexibleRunner shard the weights.
        state = {name.removeprefix('module.'): value for name, value in checkpoint.get('state_dict', checkpoint).items()}
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        own = {name: value for name, value in model.state_dict().items() if not name.startswith('distill.')}
        common = [name for name in own if name in state and hasattr(state[name], 'shape')]
        different = [
            name for name in common if state[name].shape != own[name].shape and not any(part in name for part in _RESIZED)
        ]
        where = f'load_from={str(runner._load_from)!r}'
        if own and not common:
            raise CheckpointError(f'{where} has no weight of this model ({type(model).__name__}): it is of another model')
        if len(different) > len(common) / 2:
            name = different[0]
            raise CheckpointError(
                f'{where} holds the weights of another model, of a teacher or another size for example: {len(different)} of '
                f'{len(common)} entries have another shape, {name} {tuple(state[name].shape)} instead of '
                f'{tuple(own[name].shape)}. Give the checkpoint of the student, or the config that the file belongs to'
            )
