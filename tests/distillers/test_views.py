"""Views: the tokens of one or several taps, and the tokenizers that views share."""

from collections import Counter

import pytest
import torch
from builders import build_distiller, cnn_distiller_config, distiller_config, images, labels, one_view_per_tap
from mmpretrain.registry import MODELS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.views import TapTokenizer, View
from serkd_mm.mergers import AvgPoolMerger
from serkd_mm.tokenizers import Feature, PatchTokenizer

STAGES = ['stage1', 'stage2', 'stage3']
POOL = dict(type='PoolTokenizer', mode='avg', grid=8)
CONV = dict(type='ConvTokenizer', grid=8)
PATCHES = dict(type='PatchTokenizer')
SUPERPIXELS = dict(type='SuperpixelMerger', cell=2)


def per_tap_config(**changes):
    return one_view_per_tap(cnn_distiller_config(**changes))


def learned_config(**changes):
    """The CNN pair with tokens by strided convolutions."""
    return cnn_distiller_config(**{'views__tokens__tokenizer': CONV, 'views__superpixels__tokenizer': CONV, **changes})


def perturb(module):
    """Change every parameter, so that none keeps an initial value of 0 or of an average."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype), alpha=0.1)


class ConvolutionCounter(TorchDispatchMode):
    """Count the convolutions that run."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket._qualified_op_name == 'aten::convolution'
        return function(*args, **(kwargs or {}))


class LearnedPatches(PatchTokenizer):
    """A tokenizer with parameters, the same one for student and teacher."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, feature):
        return self.scale * super().forward(feature)


class LearnedMerger(AvgPoolMerger):
    """A merger with parameters."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, grid):
        return self.scale * super().forward(grid)


class Patches2x8(PatchTokenizer):
    """16 patches as a grid of 2 rows and 8 columns."""

    def forward(self, feature):
        return super().forward(feature).flatten(2).unflatten(2, (2, 8))


class Patches4x4(PatchTokenizer):
    """16 patches as a grid of 4x4 on the student's side and of 2x8 on the teacher's."""

    def for_teacher(self):
        return Patches2x8()


def test_the_teacher_s_tokens_have_no_graph():
    view = View(distiller_config().views.superpixels, 'model.views.superpixels')
    sides = [Feature(torch.randn(2, 18, 8).requires_grad_(), (32, 32), 2) for _ in range(2)]
    tokenizer = TapTokenizer('patches', PATCHES, 'model.views.superpixels.tokenizer')
    grids = tokenizer.student(sides[0]), tokenizer.teacher(sides[1])
    assert [grid.shape for grid in grids] == [(2, 8, 4, 4)] * 2
    student_grid, teacher_grid = view.student_grid('patches', grids[0], (2, 2)), view.teacher_grid(grids[1])
    assert student_grid.shape == teacher_grid.shape == (2, 8, 2, 2)
    assert student_grid.requires_grad
    assert not teacher_grid.requires_grad


def test_a_loss_on_several_taps_is_the_mean_of_the_losses_on_each():
    several = build_distiller(cnn_distiller_config).double()
    single = build_distiller(per_tap_config).double()
    perturb(several.distill)
    single.student.load_state_dict(several.student.state_dict())
    single.teacher.load_state_dict(several.teacher.state_dict())
    with torch.no_grad():
        for name, by_tap in several.distill.losses.items():
            for tap in by_tap if name in ('loss_feat', 'loss_rd', 'loss_ra') else ():
                single.distill.losses[f'{name}_{tap}'][tap].load_state_dict(by_tap[tap].state_dict())
        for tap, refiner in several.distill.views.superpixels.refiners.items():
            single.distill.views[f'superpixels_{tap}'].refiners[tap].load_state_dict(refiner.state_dict())
    losses = several(images().double(), labels(), mode='loss')
    by_tap = single(images().double(), labels(), mode='loss')
    assert list(losses) == ['loss_cls', 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra']
    for name in ('loss_feat', 'loss_rd', 'loss_ra'):
        mean = sum(by_tap[f'{name}_{stage}'] for stage in STAGES) / 3
        torch.testing.assert_close(losses[name], mean, rtol=1e-12, atol=0)
        student = list(several.backbone.parameters())
        gradients = torch.autograd.grad(losses[name], student, retain_graph=True, allow_unused=True)
        expected = torch.autograd.grad(mean, list(single.backbone.parameters()), retain_graph=True, allow_unused=True)
        assert sum(gradient is not None for gradient in expected) > 10
        scale = max(gradient.abs().max() for gradient in expected if gradient is not None)
        assert scale > 0
        torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-10 * scale.item())
    total, expected = sum(losses.values()), sum(by_tap[name] / (3 if 'stage' in name else 1) for name in by_tap)
    gradients = torch.autograd.grad(total, list(several.distill.parameters()))
    for actual, wanted in zip(gradients, torch.autograd.grad(expected, list(single.distill.parameters())), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-12)


def test_projectors_and_refiners_are_one_per_tap_and_their_keys_name_loss_or_view_and_tap():
    model = build_distiller(cnn_distiller_config)
    layers = {f'losses.loss_feat.{stage}.projector' for stage in STAGES}
    layers |= {f'views.superpixels.refiners.{stage}.network.{index}' for stage in STAGES for index in (0, 1)}
    names = {name for name in model.state_dict() if name.startswith('distill.')}
    assert names == {f'distill.{layer}.{part}' for layer in layers for part in ('weight', 'bias')}
    shapes = [by_tap.projector.weight.shape for by_tap in model.distill.losses.loss_feat.values()]
    assert shapes == [(16, 8), (32, 16), (64, 32)]


@pytest.mark.parametrize('config', [cnn_distiller_config, learned_config])
def test_views_with_equal_tokenizer_settings_share_one_that_runs_once(config):
    model = build_distiller(config)
    tokenizers, views = model.distill.tokenizers, model.distill.views
    assert list(tokenizers) == STAGES
    assert views.tokens.tokenizer_of == views.superpixels.tokenizer_of == {stage: stage for stage in STAGES}
    calls = Counter()
    for module in tokenizers.modules():
        if hasattr(module, 'for_teacher'):
            module.register_forward_hook(lambda module, *_: calls.update([module]))
    model(images(), labels(), mode='loss')
    # A tokenizer that does not learn is the same module on both sides, and runs for each.
    assert sorted(calls.values()) == ([1] * 6 if config is learned_config else [2] * 3)


def test_a_view_with_other_tokenizer_settings_has_its_own_with_view_and_tap_in_the_key():
    def config():
        return learned_config(views__superpixels__tokenizer=dict(CONV, grid=4))

    model = build_distiller(config)
    tokenizers = model.distill.tokenizers
    assert list(tokenizers) == [*STAGES, *(f'{stage}-superpixels' for stage in STAGES)]
    assert len({id(module) for module in tokenizers.modules()}) == sum(1 for _ in tokenizers.modules())
    weights = {name for name in model.state_dict() if name.startswith('distill.tokenizers.')}
    assert weights == {
        f'distill.tokenizers.{name}.student.conv.{part}' for name in tokenizers for part in ('weight', 'bias')
    }
    tokens = model.distill.tokens(*model.extract_features(images()))
    assert {pair[0].shape[1] for pair in tokens['tokens'].values()} == {64}
    assert {pair[0].shape[1] for pair in tokens['superpixels'].values()} == {4}


@pytest.mark.parametrize('removed', [['loss_feat'], ['loss_rd', 'loss_ra']])
@pytest.mark.parametrize('grid', [4, 8])
def test_keys_of_tokenizers_do_not_depend_on_the_losses_that_are_on(removed, grid):
    def config(losses=()):
        settings = {f'losses__{name}': None for name in losses}
        return learned_config(**settings, views__superpixels__tokenizer=dict(CONV, grid=grid))

    complete, reduced = build_distiller(config), build_distiller(lambda: config(removed))
    assert len(reduced.distill.views) == 1
    for name, view in reduced.distill.views.items():
        assert view.tokenizer_of == complete.distill.views[name].tokenizer_of
    names = {name for name in reduced.state_dict() if name.startswith('distill.')}
    assert any('.tokenizers.' in name for name in names)
    assert names < set(complete.state_dict())


def test_all_views_with_equal_tokenizer_settings_share_one_also_if_another_view_differs():
    pixels = dict(taps=STAGES, tokenizer=dict(CONV, grid=4), merger=dict(type='IdentityMerger'))

    def config():
        settings = dict(views__superpixels__tokenizer=dict(CONV, grid=4), views__pixels=pixels)
        return cnn_distiller_config(**settings, losses__loss_pixels=dict(type='FeatureL2Loss', on='pixels'))

    views = build_distiller(config).distill.views
    assert views.pixels.tokenizer_of == views.superpixels.tokenizer_of != views.tokens.tokenizer_of


def test_tokenizers_of_different_taps_are_never_the_same():
    # The name of a tap may be the name of another tap, an underscore and the name of a view.
    taps = dict(stage1='backbone.layer1', stage1_superpixels='backbone.layer2', logits='head')
    views = dict(
        pooled=dict(tap='stage1_superpixels', tokenizer=POOL, merger=dict(type='IdentityMerger')),
        tokens=dict(tap='stage1', tokenizer=POOL, merger=dict(type='IdentityMerger')),
        superpixels=dict(tap='stage1', tokenizer=dict(POOL, mode='max'), merger=dict(type='IdentityMerger')),
    )
    losses = {
        f'loss_{name}': dict(type='TokenDistanceLoss', on=name, loss_weight=1.0)
        for name in ('pooled', 'tokens', 'superpixels')
    }
    model = build_distiller(
        lambda: cnn_distiller_config(
            student__taps=taps,
            teacher__taps=taps,
            views=views,
            losses=dict(losses, loss_kd=cnn_distiller_config().losses.loss_kd),
        )
    )
    student, teacher = model.extract_features(images())
    expected = nn.functional.adaptive_max_pool2d(student['stage1'].tensor, 8).flatten(2).mT
    assert torch.equal(model.distill.tokens(student, teacher)['superpixels']['stage1'][0], expected)


def test_strided_convolutions_train_one_tokenizer_per_tap():
    model = build_distiller(learned_config)
    weights = dict(model.distill.tokenizers.named_parameters())
    assert weights.keys() == {f'{stage}.student.conv.{part}' for stage in STAGES for part in ('weight', 'bias')}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    sum(model(images(), labels(), mode='loss').values()).backward()
    optimizer.step()
    assert [name for name, weight in weights.items() if torch.equal(weight, before[name])] == []


def test_strided_convolutions_pool_the_teacher_s_features():
    model = build_distiller(learned_config)
    perturb(model.distill)
    assert all(list(tokenizer.teacher.parameters()) == [] for tokenizer in model.distill.tokenizers.values())
    student, teacher = model.extract_features(images())
    with ConvolutionCounter() as convolutions:
        tokens = model.distill.tokens(student, teacher)
    # Each of the student's tokenizers and refiners runs once, and nothing else.
    assert convolutions.count == sum(isinstance(module, nn.Conv2d) for module in model.distill.modules()) == 9
    for stage in STAGES:
        pooled = nn.functional.adaptive_avg_pool2d(teacher[stage].tensor, 8).flatten(2).mT
        torch.testing.assert_close(tokens['tokens'][stage][1], pooled)
        assert not tokens['tokens'][stage][1].requires_grad


def test_a_tokenizer_that_learns_for_the_teacher_too_is_refused():
    with pytest.raises(ConfigError, match=r'^model\.views\.superpixels: .*LearnedPatches.*for_teacher'):
        MODELS.build(distiller_config(views__superpixels__tokenizer=dict(type=LearnedPatches)))


def test_a_merger_with_parameters_is_refused():
    with pytest.raises(ConfigError, match=r'^model\.views\.superpixels: .*LearnedMerger'):
        MODELS.build(distiller_config(views__superpixels__merger=dict(type=LearnedMerger)))


def test_grids_of_different_shape_are_refused_even_with_equally_many_tokens():
    with pytest.raises(ConfigError, match=r'^model\.views\.tokens: .*4x4 tokens.*\(4, 4\) and \(2, 8\).*grid=\(2, 4\)'):
        MODELS.build(distiller_config(views__tokens__tokenizer=dict(type=Patches4x4)))
    with pytest.raises(ConfigError, match=r'^model\.views\.superpixels: .*4x4 tokens.*\(2, 2\) and \(1, 4\)'):
        MODELS.build(distiller_config(views__superpixels__tokenizer=dict(type=Patches4x4)))
    view = View(dict(tap='patches', tokenizer=PATCHES, merger=SUPERPIXELS), 'model.views.superpixels')
    assert view.student_grid('patches', torch.randn(1, 8, 2, 8), (1, 4)).shape == (1, 8, 1, 4)
    with pytest.raises(ValueError, match=r'\(2, 2\) and \(1, 4\)'):
        view.student_grid('patches', torch.randn(1, 8, 4, 4), (1, 4))
    with pytest.raises(ValueError, match=r'\(2, 2\) and \(4, 4\)'):
        view.student_grid('patches', torch.randn(1, 8, 4, 4), (4, 4))


class ScalingTokenizer(PatchTokenizer):
    """A tokenizer that learns, with parameters from the start; the teacher's side does not scale."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, feature):
        return self.scale * super().forward(feature)

    def for_teacher(self):
        return PatchTokenizer()


def test_tokenizers_of_unread_views_leave_no_untrained_parameters():
    unread = dict(tap='patches', tokenizer=dict(type=ScalingTokenizer), merger=SUPERPIXELS)
    model = build_distiller(views__unread=unread)
    sum(model(images(), labels(), mode='loss').values()).backward()
    assert [name for name, weight in model.distill.named_parameters() if weight.grad is None] == []


def test_a_tap_cannot_have_the_name_of_another_tap_s_tokenizer():
    view = dict(tap='patches-b', tokenizer=PATCHES, merger=SUPERPIXELS)
    with pytest.raises(ConfigError, match=r"model\.views\.a\.tap.*'patches-b'"):
        MODELS.build(distiller_config(views__a=view))


class TokensMerger(AvgPoolMerger):
    """A merger of 0.1: tokens instead of a grid."""

    def forward(self, grid):
        return super().forward(grid).flatten(2).mT


def test_a_merger_that_returns_tokens_is_refused():
    with pytest.raises(ConfigError, match=r'^model\.views\.superpixels: .*must return grids \(B, C, h, w\)'):
        MODELS.build(distiller_config(views__superpixels__merger=dict(type=TokensMerger)))
