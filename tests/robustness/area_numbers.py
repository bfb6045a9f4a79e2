"""Attempts with unusual numbers."""

from collections.abc import Callable
from pathlib import Path

import torch
from builders import build_distiller, cnn_distiller_config, images, labels
from judging import Act, check, refused, works, works_or_refused
from mmpretrain.structures import DataSample
from starting import check_close, step

from serkd_mm import losses as all_losses
from serkd_mm.mergers import SuperpixelMerger
from serkd_mm.ops import angle_relation_loss, distance_relation_loss, reference, superpixel_tokens

RELATIONS = (distance_relation_loss, angle_relation_loss)


def tokens(batch: int = 3, length: int = 16, channels: int = 8, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    """Random tokens."""
    return torch.randn(batch, length, channels, generator=torch.Generator().manual_seed(seed)).to(dtype)


def value_and_gradient(loss: Callable, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and its gradient with respect to the student's tokens; both must be finite."""
    student = student.detach().clone().requires_grad_()
    value, name = loss(student, teacher), getattr(loss, '__name__', loss)
    (gradient,) = torch.autograd.grad(value, student)
    check(value.isfinite(), f'{name} is {value.item()}')
    check(gradient.isfinite().all(), f'the gradient of {name} is not finite')
    return value.detach(), gradient


def finite(student: torch.Tensor, teacher: torch.Tensor | None = None, positive: bool = False) -> Act:
    """Both relation losses and their gradients are finite, and with ``positive`` not 0."""

    def act(_folder: Path) -> None:
        for loss in RELATIONS:
            value, gradient = value_and_gradient(loss, student, tokens(*student.shape, 1) if teacher is None else teacher)
            check(not positive or (value > 0 and gradient.abs().max() > 0), f'{loss.__name__} is 0 for tokens that differ')

    return act


def like_reference(scale: float) -> Act:
    """Losses of tokens of another scale equal those of the paper's listing in float64."""

    def act(_folder: Path) -> None:
        student, teacher = tokens() * scale, tokens(seed=1) * scale
        for loss in RELATIONS:
            expected = getattr(reference, loss.__name__)(student.double(), teacher.double())
            check_close(value_and_gradient(loss, student, teacher)[0].double(), expected, loss.__name__, 1e-4)

    return act


def invariant(change: Callable[[torch.Tensor], torch.Tensor], tolerance: float = 1e-4) -> Act:
    """A change of the student's tokens that must not change the losses."""

    def act(_folder: Path) -> None:
        for loss in RELATIONS:
            expected = loss(tokens(), tokens(seed=1))
            check_close(loss(change(tokens()), tokens(seed=1)), expected, loss.__name__, tolerance)

    return act


def rotated(points: torch.Tensor) -> torch.Tensor:
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(5)))
    return points @ rotation


def permuted(dimension: int) -> Act:
    """A permutation of both sides permutes the gradient and does not change the loss."""

    def act(_folder: Path) -> None:
        student, teacher = tokens(), tokens(seed=1)
        order = torch.randperm(student.shape[dimension], generator=torch.Generator().manual_seed(2))
        for loss in RELATIONS:
            value, gradient = value_and_gradient(loss, student, teacher)
            other = value_and_gradient(loss, student.index_select(dimension, order), teacher.index_select(dimension, order))
            check_close(other[0], value, loss.__name__)
            check_close(other[1], gradient.index_select(dimension, order), f'gradient of {loss.__name__}', 1e-4)

    return act


def mean_of_images(_folder: Path) -> None:
    for loss in RELATIONS:
        alone = torch.stack([loss(one[None], two[None]) for one, two in zip(tokens(), tokens(seed=1), strict=True)])
        check_close(loss(tokens(), tokens(seed=1)), alone.mean(), loss.__name__)


def gradient_is_invariant(_folder: Path) -> None:
    """A loss that ignores shift and scale has a gradient without a component along either."""
    for loss in RELATIONS:
        _, gradient = value_and_gradient(loss, tokens(), tokens(seed=1))
        size = gradient.abs().sum(dim=1).max()
        check(gradient.sum(dim=1).abs().max() < 1e-4 * size, f'{loss.__name__}: the gradient moves the mean')
        check((gradient * tokens()).sum(dim=(1, 2)).abs().max() < 1e-3 * size, f'{loss.__name__}: the gradient scales')


def equal_sides(_folder: Path) -> None:
    for loss in RELATIONS:
        value, gradient = value_and_gradient(loss, tokens(), tokens())
        check(value == 0 and gradient.abs().max() == 0, f'{loss.__name__} of equal tokens is {value.item()}')


def not_finite(bad: float, side: int) -> Act:
    """A value that is not finite must show in the loss."""

    def act(_folder: Path) -> None:
        for loss in RELATIONS:
            sides = [tokens(), tokens(seed=1)]
            sides[side][0, 3, 2] = bad
            check(not loss(*sides).isfinite(), f'{loss.__name__} hides {bad}')

    return act


def double_backward(_folder: Path) -> None:
    for loss in RELATIONS:
        found = []
        for name in (loss, getattr(reference, loss.__name__)):
            student = tokens(1, 4, 2, dtype=torch.float64).requires_grad_()
            value = name(student, tokens(1, 4, 2, 1, torch.float64)) + student.pow(3).sum()
            (gradient,) = torch.autograd.grad(value, student, create_graph=True)
            found += torch.autograd.grad(gradient.square().sum(), student)
        check_close(*found, f'the second derivative of {loss.__name__}')


def same_under(context: Callable) -> Act:
    """Losses are the same inside a context, and superpixels too."""

    def act(_folder: Path) -> None:
        grid = tokens(2, 36).mT.unflatten(2, (6, 6))
        expected = [loss(tokens(), tokens(seed=1)) for loss in RELATIONS] + [superpixel_tokens(grid)]
        with context():
            found = [loss(tokens(), tokens(seed=1)) for loss in RELATIONS] + [superpixel_tokens(grid)]
        for one, two in zip(found, expected, strict=True):
            check(one.dtype == two.dtype, f'{one.dtype} instead of {two.dtype}')
            check_close(one, two, 'inside')

    return act


def threads(_folder: Path) -> None:
    expected = [value_and_gradient(loss, tokens(8, 49), tokens(8, 49, seed=1)) for loss in RELATIONS]
    torch.set_num_threads(4)
    found = [value_and_gradient(loss, tokens(8, 49), tokens(8, 49, seed=1)) for loss in RELATIONS]
    for one, two in zip(found, expected, strict=True):
        check_close(one[0], two[0], 'value')
        check_close(one[1], two[1], 'gradient', 1e-4)


def layouts(_folder: Path) -> None:
    strided = tokens(3, 8, 16).mT
    for loss in RELATIONS:
        check_close(loss(strided, tokens(seed=1)), loss(strided.contiguous(), tokens(seed=1)), 'strided tokens')
        check_close(loss(tokens(1).expand(3, -1, -1), tokens(seed=1)), loss(tokens(1).repeat(3, 1, 1), tokens(seed=1)), 'x')
        for side in (tokens(), tokens(seed=1)):
            before = side.clone()
            loss(side, tokens(seed=2))
            loss(tokens(seed=2), side)
            check(torch.equal(side, before), f'{loss.__name__} changes its arguments')


def flipped_superpixels(_folder: Path) -> None:
    merger, grid = SuperpixelMerger(cell=2, num_iters=3), torch.randn(2, 5, 14, 14)
    for dimensions in ((2,), (3,), (2, 3)):
        check_close(merger(grid.flip(dimensions)), merger(grid).flip(dimensions), 'superpixels of a flipped grid')
    check_close(merger(grid.mT), merger(grid).mT, 'superpixels of a transposed grid')
    check_close(merger(grid.flip(0)), merger(grid).flip(0), 'superpixels of a permuted batch')


def superpixels_of(grid: torch.Tensor) -> Act:
    """Superpixels and their gradient are finite, inside the range of the tokens, and the association sums to 1."""

    def act(_folder: Path) -> None:
        part = grid.clone().requires_grad_()
        merged, association = SuperpixelMerger(cell=2, num_iters=2).associate(part)
        merged.sum().backward()
        check(merged.isfinite().all() and part.grad.isfinite().all(), 'superpixels or their gradient are not finite')
        check_close(association.sum(dim=2), torch.ones(association.shape[:2]), 'rows of the association')
        low, high = grid.amin((2, 3), keepdim=True).float(), grid.amax((2, 3), keepdim=True).float()
        slack = 1e-5 * grid.abs().max().float()
        check(((merged >= low - slack) & (merged <= high + slack)).all(), 'a superpixel is no mean of tokens')

    return act


def trained_on(inputs: torch.Tensor) -> Act:
    """A step of both small pairs on unusual images is finite."""

    def act(_folder: Path) -> None:
        step(build_distiller().train(), inputs)
        step(build_distiller(cnn_distiller_config).train(), inputs)

    return act


def logits(student: float, teacher: float) -> Act:
    """Losses on logits of such sizes are finite."""

    def act(_folder: Path) -> None:
        for name in ('LogitKLLoss', 'HardLabelLoss'):
            loss = getattr(all_losses, name)()
            sides = [torch.randn(4, 10, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
            value_and_gradient(loss, sides[0] * student, sides[1] * teacher)

    return act


def soft_labels(score: torch.Tensor) -> Act:
    """A step with soft labels."""

    def act(_folder: Path) -> None:
        head = dict(type='LinearClsHead', num_classes=4, in_channels=64, loss=dict(type='CrossEntropyLoss', use_soft=True))
        changes = dict(student__model__head=head, teacher__model__head__num_classes=4, data_preprocessor__to_onehot=True)
        model = build_distiller(cnn_distiller_config, **changes)
        step(model.train(), samples=[DataSample().set_gt_score(score) for _ in range(4)])

    return act


def on_batch(name: str, size: int, **settings) -> Act:
    """A loss on a batch of ``size`` images, twice."""

    def act(_folder: Path) -> None:
        loss = getattr(all_losses, name)(**settings).train()
        for seed in (0, 2):
            student, teacher = (torch.randn(size, 6, generator=torch.Generator().manual_seed(seed + k)) for k in (0, 1))
            value_and_gradient(loss, student, teacher)

    return act


def channel_graph(student: torch.Tensor, teacher: torch.Tensor) -> Act:
    """SEKD's loss on unusual tokens."""

    def act(_folder: Path) -> None:
        loss = all_losses.ChannelGraphLoss()
        value_and_gradient(loss, student, teacher)

    return act


def deterministic(_folder: Path) -> None:
    torch.use_deterministic_algorithms(True)
    one, two = (step(build_distiller(cnn_distiller_config).train()) for _ in range(2))
    check(all(torch.equal(one[name], two[name]) for name in one), 'two equal steps differ')


def float64_default(_folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    step(build_distiller().train(), images().double())


def integers(_folder: Path) -> None:
    whole = (10 * tokens()).long()
    for loss in RELATIONS:
        check_close(loss(whole, tokens(seed=1)), loss(whole.float(), tokens(seed=1)), loss.__name__)


def no_image(_folder: Path) -> None:
    for loss in RELATIONS:
        check(loss(tokens(0), tokens(0)).isnan(), f'{loss.__name__} of no image is a number')


def no_graph(_folder: Path) -> None:
    model = build_distiller().train()
    with torch.no_grad():
        losses = model(images(), labels(), mode='loss')
    check(not losses['loss_ra'].requires_grad, 'a graph under no_grad')
    with torch.inference_mode():
        check(model(images(), labels(), mode='loss')['loss_ra'].isfinite(), 'not finite in inference mode')
    step(model)


NOISE = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
CONSTANT = torch.ones(2, 16, 8)
ATTEMPTS = [
    works('black images', trained_on(torch.zeros(4, 3, 32, 32))),
    works('constant images', trained_on(torch.full((4, 3, 32, 32), 3.0))),
    works('four times the same image', trained_on(images(1).expand(4, -1, -1, -1))),
    works('images 1e4 times too bright', trained_on(images() * 1e4)),
    works('all tokens equal', finite(CONSTANT)),
    works('all tokens of the teacher equal', finite(tokens(), CONSTANT[:1].expand(3, -1, -1))),
    works('all tokens zero', finite(torch.zeros(2, 16, 8))),
    works('tokens at 1e-12', like_reference(1e-12)),
    works('tokens at 1e12', like_reference(1e12)),
    works('tokens at 1e-22, whose squares are 0 in float32', finite(tokens() * 1e-22)),
    works('tokens at 1e20, whose squares are infinite in float32', like_reference(1e20)),
    works('subnormal tokens', finite(tokens() * 1e-40)),
    works('tokens at the end of float16', finite((tokens() * 1.5e4).half())),
    works('tokens of bfloat16', finite(tokens(dtype=torch.bfloat16), positive=True)),
    works('tokens with a common offset of 1e4', invariant(lambda x: x + 1e4, 2e-2)),
    works('student 1e3 times larger', invariant(lambda x: x * 1e3)),
    works('student 1e-3 times smaller', invariant(lambda x: x * 1e-3)),
    works('student mirrored', invariant(lambda x: -x)),
    works('student rotated', invariant(rotated)),
    works('permuted tokens', permuted(1)),
    works('permuted images', permuted(0)),
    works('a batch is the mean of its images', mean_of_images),
    works('the gradient neither moves nor scales the tokens', gradient_is_invariant),
    works('equal sides: no loss and no gradient', equal_sides),
    works('NaN in a token of the student shows', not_finite(float('nan'), 0)),
    works('NaN in a token of the teacher shows', not_finite(float('nan'), 1)),
    works('infinity in a token of the student shows', not_finite(float('inf'), 0)),
    works('infinity in a token of the teacher shows', not_finite(float('inf'), 1)),
    works('one channel', finite(tokens(2, 5, 1), positive=True)),
    works('tokens on a line', finite(torch.arange(10.0).view(1, 10, 1) * torch.ones(1, 1, 4), positive=True)),
    refused(
        'different numbers of tokens', lambda f: angle_relation_loss(tokens(), tokens(length=9)), '(3, 16, 8)', '(3, 9, 8)'
    ),
    works('tokens of integers', integers),
    works("no image at all: NaN, as torch's mean of nothing", no_image),
    works_or_refused('second derivatives, of a sum with another loss', double_backward, 'differentiable once'),
    works('no_grad', same_under(torch.no_grad)),
    works('inference mode', same_under(torch.inference_mode)),
    works('bfloat16 autocast', same_under(lambda: torch.autocast('cpu', torch.bfloat16))),
    works('no_grad and inference mode around a step', no_graph),
    works('four threads', threads),
    works('strided and expanded tokens, which stay unchanged', layouts),
    works('superpixels of a flipped, transposed and permuted grid', flipped_superpixels),
    works('superpixels of a constant grid', superpixels_of(torch.ones(2, 8, 6, 6))),
    works('superpixels of tokens at 1e4', superpixels_of(NOISE * 1e4)),
    works('superpixels of tokens at 1e18', superpixels_of(NOISE * 1e18)),
    works('superpixels of tokens at 1e-30', superpixels_of(NOISE * 1e-30)),
    works('superpixels at the end of float16', superpixels_of((NOISE * 1.5e4).half())),
    works('superpixels of an odd grid', superpixels_of(NOISE[..., :5, :3])),
    works('logits of the teacher at 1e4', logits(1, 1e4)),
    works('logits of the student at 1e4', logits(1e4, 1)),
    works('both logits at 1e30', logits(1e30, 1e30)),
    works('one-hot labels', soft_labels(torch.tensor([0.0, 1, 0, 0]))),
    works('soft labels that sum to 2', soft_labels(torch.tensor([1.0, 1, 0, 0]))),
    works('RKD-D with one image', on_batch('InstanceDistanceLoss', 1)),
    works('RKD-A with two images', on_batch('InstanceAngleLoss', 2)),
    works('RRD with one image', on_batch('RRDLoss', 1, queue_size=3, embed_dim=4)),
    works('RRD with a batch larger than its queue', on_batch('RRDLoss', 7, queue_size=3, embed_dim=4)),
    works('SEKD on constant tokens', channel_graph(CONSTANT, tokens(2, 16, 8))),
    works('SEKD on zeros', channel_graph(torch.zeros(2, 16, 8), torch.zeros(2, 16, 8))),
    works('SEKD on tokens at 1e15', channel_graph(tokens(2, 16, 8) * 1e15, tokens(2, 16, 8, 1))),
    works('deterministic algorithms', deterministic),
    works('float64 as the default dtype', float64_default),
]
