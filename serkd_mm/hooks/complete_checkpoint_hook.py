import re
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn

from ..fileio.safe_loading import CheckpointError


@HOOKS.register_module()
class CompleteCheckpointHook(Hook):
    """Refuse a checkpoint that does not hold every weight of the model.

    mmengine logs missing weights and goes on, so that an evaluation of the wrong file reports the accuracy of random
    weights. ``tools/test.py`` sets this hook. A training may start from a part of the weights.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Check the checkpoint before it is loaded.

        Raises:
            CheckpointError: A weight is missing or has another shape.
        """
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        load_all_weights(model, checkpoint, repr(str(runner._load_from)))


def load_all_weights(model: nn.Module, checkpoint: Any, where: str) -> None:
    """Load a checkpoint that holds every weight of a model. What only training needs (``distill.``) may be missing.

    Args:
        model: The model.
        checkpoint: A checkpoint of mmengine, or a state dict.
        where: Start of the error messages, such as the path.

    Raises:
        CheckpointError: A weight is missing or has another shape.
    """
    weights = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError(f'{where} holds no state_dict')
    try:
        missing, _ = model.load_state_dict({re.sub(r'^module\.', '', name): weights[name] for name in weights}, strict=False)
    except RuntimeError as error:
        _, first, *others = str(error).strip().split('\n')  # Of a large model, hundreds of weights differ.
        more = f' The same holds for {len(others)} others.' if others else ''
        raise CheckpointError(f'{where} is of another model: {first.strip()}{more}') from error
    entries = model.state_dict(keep_vars=True).items()
    needed = {name: value for name, value in entries if _is_weight(value) and not name.startswith('distill.')}
    saved_names = {id(value): name for name, value in needed.items()}
    # A missing weight has its name in the model, which the hooks of state dicts may change, as those of a distiller do.
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    missing = [saved_names[id(own[name])] for name in missing if name in own and id(own[name]) in saved_names]
    if missing:
        listed = ', '.join(missing[:4]) + (', ...' if len(missing) > 4 else '')
        raise CheckpointError(
            f'{where} holds {len(weights)} entries, but not {len(missing)} of the {len(needed)} weights of the model, which '
            f'would be random: {listed}. Is it a checkpoint of this config?'
        )


def _is_weight(value: Any) -> bool:
    """Whether an entry is a weight or a statistic; counters and indices are computed by the model."""
    return isinstance(value, Tensor) and value.is_floating_point()
