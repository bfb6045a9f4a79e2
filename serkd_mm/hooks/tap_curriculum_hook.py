from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmpretrain.registry import HOOKS
from torch import nn

from ..config_errors import ConfigError, prefix_errors, suggest
from ..distillers import RelationDistiller
from ..distillers.cached_teacher import CachedTeacher
from ..distillers.frozen_teacher import FrozenTeacher
from ..distillers.taps import Taps, expand_path
from ..losses.base_loss import check_size, check_weight
from ..ops import linear_cka
from ..seeding import index_sampler, kept_random_state
from .runner_models import unwrapped_model

_KEY = 'custom_hooks: TapCurriculumHook'


@HOOKS.register_module()
class TapCurriculumHook(Hook):
    """Move a tap of the teacher from block to block while the student learns: the curriculum of LEAP (arXiv:2606.19483).

    The student learns the features of one block of the teacher. It moves on to the next block once linear CKA between its
    mapped tokens and the teacher's, over all tokens of a batch, reaches a threshold, or after some epochs on the block. The
    teacher stops computing after the block, unless a loss reads something later: with a loss on logits it runs to its end.

    CKA is averaged over the ranks, so all of them move together. Block and epochs are saved in checkpoints, so resuming is
    bit-exact. ``train/tap_block`` and ``train/cka`` are logged, and each move.

    Choices: CKA is not smoothed, as in the authors' commands (``EMA_ALPHA=1``). They measure it in every iteration, which
    costs 2 to 5 % of a step (DeiT-Ti, ViT-B, on a CPU); every 50th finds a lasting rise at most 49 iterations later, and can
    miss a single batch above the threshold. They scan the blocks with the student in training mode, here it is in evaluation
    mode, on the images of the first iteration. An epoch that ends with the iteration of a move is not counted for the new
    block.

    Args:
        tap: Name of the tap, which all losses that read it follow.
        paths: Module paths of the blocks in order, or a pattern such as ``'backbone.layers[{}]'`` for all modules of a list.
        loss: Name of the loss whose tokens are compared; it reads the tap and maps the student's tokens by a linear layer
            (``FeatureL2Loss``, ``ViTKDMimickingLoss``).
        threshold: CKA from which the tap moves on. Default: 0.8.
        max_epochs: Epochs on a block after which the tap moves on in any case. Default: 5. None: no limit.
        interval: Iterations between two measurements. Default: 50.
        start: Number of the first block, from 0, or 'best', the one with the largest CKA before the first iteration.
            Default: 'best'.
        teacher: Name of the teacher if there are several. Default: None.

    Raises:
        ConfigError: A setting is wrong.
    """

    def __init__(
        self,
        tap: str,
        paths: str | Sequence[str],
        loss: str,
        threshold: float = 0.8,
        max_epochs: int | None = 5,
        interval: int = 50,
        start: int | str = 'best',
        teacher: str | None = None,
    ) -> None:
        self.tap, self.loss, self.teacher = tap, loss, teacher
        self.paths = paths if isinstance(paths, str) else list(paths)
        with prefix_errors(_KEY):
            self.threshold = check_weight('threshold', threshold)
            self.max_epochs = None if max_epochs is None else check_size('max_epochs', max_epochs)
            self.interval = check_size('interval', interval)
            self.start = start if start == 'best' else check_size("start (a number, or 'best')", start, minimum=0)
        self._block: int | None = None
        self._epochs = 0
        self._resumed: dict[str, Any] | None = None
        self._recorder: _TokenRecorder | None = None

    def before_run(self, runner: Runner) -> None:
        """Find the teacher, its blocks and the loss.

        Raises:
            ConfigError: There is none of them, or they do not belong together.
        """
        if not isinstance(runner._train_loop, BaseLoop):
            return  # Evaluation.
        model = unwrapped_model(runner)
        self._name, self._teacher = self._find_teacher(model)
        self._loss = self._find_loss(model)
        if isinstance(self.paths, str):
            self.paths = expand_path(self._teacher.model, self.paths, f'{_KEY}.paths')
        if len(self.paths) < 2 or len(set(self.paths)) < len(self.paths):
            raise ConfigError(f'{_KEY}.paths must name at least two different blocks, but is {self.paths!r}')
        if self.start != 'best' and self.start >= len(self.paths):
            raise ConfigError(f'{_KEY}.start={self.start}: there are {len(self.paths)} blocks, 0 to {len(self.paths) - 1}')
        paths = dict(enumerate(self.paths))
        self._blocks = Taps(self._teacher.model, paths, paths, f'{_KEY}.paths')
        self._epoch_length = None if self.max_epochs is None else _iters_per_epoch(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the block and the epochs on it."""
        states = checkpoint['meta'].setdefault('tap_curricula', {})
        states[self._state_key] = {'path': self.paths[self._block], 'epochs': self._epochs}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read the block of the run that is resumed."""
        if runner._resume:
            self._resumed = checkpoint.get('meta', {}).get('tap_curricula', {}).get(self._state_key)

    def before_train(self, runner: Runner) -> None:
        """Move the tap to the block of the run that is resumed, or to the first one.

        Raises:
            ConfigError: The resumed run was on a block that is not in ``paths``.
        """
        self._checked = False
        if self._resumed is not None:
            if self._resumed['path'] not in self.paths:
                raise ConfigError(
                    f'{_KEY}.paths has no {self._resumed["path"]!r}, which the resumed run was on. Resume with the config '
                    'that it was trained with'
                )
            self._epochs = self._resumed['epochs']
            self._set_block(runner, self.paths.index(self._resumed['path']), 'resumed')
        elif self.start != 'best':
            self._move(runner, self.start, 'start')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Check the blocks with the first batch of this start, choose the first one, and prepare a measurement.

        Raises:
            ConfigError: A block has no feature, or one of another shape than the first.
        """
        if not self._checked:
            with kept_random_state(), torch.no_grad():
                self._begin(runner, deepcopy(data_batch))
            self._checked = True
        if self.every_n_train_iters(runner, self.interval):
            self._recorder = _TokenRecorder(self._loss)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        """Measure CKA, count epochs, and move on if it is time."""
        reasons = []
        if self._recorder is not None:
            cka = _mean_over_ranks([self._recorder.finish()])[0]
            self._recorder = None
            runner.message_hub.update_scalar('train/cka', cka)
            if cka >= self.threshold:
                reasons.append(f'CKA {cka:.3f}')
        # Also in an iteration-based training, where an epoch is a pass over the data.
        if self._epoch_length is not None and (runner.iter + 1) % self._epoch_length == 0:
            self._epochs += 1
            if self._epochs >= self.max_epochs:
                reasons.append(f'{self._epochs} epochs')
        if reasons and self._block + 1 < len(self.paths):
            self._epochs = 0
            self._move(runner, self._block + 1, reasons[0])

    @property
    def _state_key(self) -> str:
        return self.tap if self.teacher is None else f'{self.teacher}.{self.tap}'

    def _find_teacher(self, model: nn.Module) -> tuple[str, FrozenTeacher]:
        if not isinstance(model, RelationDistiller) or not model.teachers:
            raise ConfigError(f'{_KEY} moves a tap of a teacher, and this {type(model).__name__} has none. Remove the hook')
        names = list(model.teachers)
        if self.teacher is None and len(names) > 1:
            raise ConfigError(f'{_KEY}.teacher is missing: name the one of model.teachers. {suggest("", names)}')
        name = names[0] if self.teacher is None else self.teacher
        if name not in names:
            raise ConfigError(f'{_KEY}.teacher={name!r} is not one of model.teachers. {suggest(name, names)}')
        teacher = model.teachers[name]
        if isinstance(teacher, CachedTeacher):
            raise ConfigError(
                f'{_KEY} moves a tap of the teacher, which model.teacher.cache={teacher.folder!r} does not build. Train '
                'without a cache, or remove the hook'
            )
        if self.tap not in teacher.taps.paths:
            hint = suggest(self.tap, teacher.taps.paths)
            raise ConfigError(f'{_KEY}.tap={self.tap!r} is not a tap of {teacher.key} that a loss reads. {hint}')
        return name, teacher

    def _find_loss(self, model: RelationDistiller) -> nn.Module:
        losses, teacher_of = model.distill.losses, model.distill.teacher_of
        found = {name: by_tap[self.tap] for name, by_tap in losses.items() if self.tap in by_tap}
        valid = [name for name, loss in found.items() if teacher_of[name] == self._name and hasattr(loss, 'projector')]
        if self.loss not in valid:
            raise ConfigError(
                f'{_KEY}.loss={self.loss!r} is not a loss that reads the tap {self.tap!r} of this teacher and maps the '
                f"student's tokens to it, as FeatureL2Loss does. {suggest(self.loss, valid)}"
            )
        return found[self.loss]

    def _begin(self, runner: Runner, data_batch: Any) -> None:
        """Compare the blocks with the first batch; the student sees it as it will in the training step."""
        model = unwrapped_model(runner)
        batch = model.data_preprocessor(data_batch, training=True)
        tokens = self._tokens_of_blocks(model, batch['inputs'])
        if self._block is not None:
            return
        recorder = _TokenRecorder(self._loss)
        runner.model.eval()
        runner.model(**batch, mode='loss')
        runner.model.train()
        scores = _mean_over_ranks([recorder.finish(teacher) for teacher in tokens])
        best = max(range(len(scores)), key=scores.__getitem__)
        self._move(runner, best, f'CKA of all blocks: {", ".join(f"{score:.3f}" for score in scores)}')

    def _tokens_of_blocks(self, model: RelationDistiller, inputs: torch.Tensor) -> list[torch.Tensor]:
        """The teacher's tokens that the loss reads, at each block."""
        features, blocks = self._teacher(inputs), self._teacher(inputs, self._blocks)
        tokens, shapes = [], []
        for number in range(len(self.paths)):
            read = model.distill.targets({**features, self.tap: blocks[number]}, self._name).tensors
            tokens.append(read[self.loss, self.tap])
            shapes.append({name: tuple(tensor.shape) for (name, tap), tensor in read.items() if tap == self.tap})
            if shapes[number] != shapes[0]:
                raise ConfigError(
                    f'{_KEY}.paths: the losses read tensors of the shapes {shapes[number]} at {self.paths[number]!r}, but '
                    f'{shapes[0]} at {self.paths[0]!r}. Name blocks of equal shape'
                )
        return tokens

    def _move(self, runner: Runner, block: int, reason: str) -> None:
        self._set_block(runner, block, reason)
        runner.message_hub.update_scalar('train/tap_block', block)  # A checkpoint has that of a resumed run.

    def _set_block(self, runner: Runner, block: int, reason: str) -> None:
        self._block = block
        self._teacher.taps.move(self.tap, self.paths[block])
        tap, last = f'{self._teacher.taps.key}.{self.tap}', len(self.paths) - 1
        runner.logger.info(f'{tap} is now {self.paths[block]!r}, block {block} of 0 to {last} ({reason}).')


class _TokenRecorder:
    """Keep what a loss compares in its next call: the student's mapped tokens and the teacher's.

    Args:
        loss: A loss with a ``projector``.
    """

    def __init__(self, loss: nn.Module) -> None:
        self._handles = [
            loss.register_forward_pre_hook(self._keep_teacher),
            loss.projector.register_forward_hook(self._keep_student),
        ]

    def finish(self, teacher: torch.Tensor | None = None) -> torch.Tensor:
        """Compute CKA of the student's tokens with the teacher's, or with others ``(B, L, C)``, and keep nothing more."""
        for handle in self._handles:
            handle.remove()
        return linear_cka(self._student.flatten(0, -2), (self._teacher if teacher is None else teacher).flatten(0, -2))

    def _keep_teacher(self, _loss: nn.Module, inputs: tuple) -> None:
        self._teacher = inputs[1].detach()

    def _keep_student(self, _projector: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        self._student = output.detach()


def _iters_per_epoch(runner: Runner) -> int:
    """Iterations in which all ranks together see the training images once."""
    loader = runner.train_dataloader
    try:
        length = len(loader)
    except TypeError:
        raise ConfigError(
            f'{_KEY}.max_epochs counts passes over the training images, whose number is not known. Set max_epochs=None'
        ) from None
    shared = isinstance(index_sampler(loader), InfiniteSampler)  # Its length is that of all ranks together.
    return -(-length // get_world_size()) if shared else length


def _mean_over_ranks(values: list[torch.Tensor]) -> list[float]:
    mean = torch.stack(values)
    all_reduce(mean, 'mean')
    return mean.tolist()
