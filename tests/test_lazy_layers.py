import pytest
import torch
from torch import nn

from serkd_mm.lazy_layers import build_on_first_input
from serkd_mm.losses import ChannelGraphLoss, FeatureL2Loss, RRDLoss
from serkd_mm.mergers import SuperpixelRefiner
from serkd_mm.tokenizers import ConvTokenizer, Feature


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_module('layer', None)


def test_layer_is_built_once_and_registered():
    owner, sizes = Owner(), []

    def make(*widths):
        sizes.append(widths)
        return nn.Linear(*widths)

    assert not owner.state_dict()
    layer = build_on_first_input(owner, 'layer', torch.zeros(2, 3), (3, 4), make)
    assert build_on_first_input(owner, 'layer', torch.zeros(5, 3), (3, 4), make) is layer is owner.layer
    assert sizes == [(3, 4)]
    assert set(owner.state_dict()) == {'layer.weight', 'layer.bias'}


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_layer_has_dtype_and_device_of_its_input(dtype, device):
    features = torch.zeros(2, 3, dtype=dtype, device=device)
    layer = build_on_first_input(Owner(), 'layer', features, (3, 4), nn.Linear)
    assert all((weight.dtype, weight.device) == (dtype, features.device) for weight in layer.parameters())


def test_other_sizes_raise_and_leave_the_layer():
    owner = Owner()
    layer = build_on_first_input(owner, 'layer', torch.zeros(2, 3), (3, 4), nn.Linear)
    with pytest.raises(ValueError, match=r'Owner\.layer was built for \(3, 4\), but this input needs \(5, 4\)'):
        build_on_first_input(owner, 'layer', torch.zeros(2, 5), (5, 4), nn.Linear)
    assert owner.layer is layer


def zeros(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ('owner_type', 'settings', 'name', 'first', 'other'),
    [
        (FeatureL2Loss, {}, 'projector', (zeros(2, 9, 5), zeros(2, 9, 7)), (zeros(2, 9, 5), zeros(2, 9, 6))),
        (ChannelGraphLoss, {}, 'projector', (zeros(2, 9, 5), zeros(2, 9, 7)), (zeros(2, 9, 6), zeros(2, 9, 7))),
        (RRDLoss, dict(embed_dim=4), 'teacher_map', (zeros(2, 5), zeros(2, 7)), (zeros(2, 5), zeros(2, 6))),
        (RRDLoss, dict(embed_dim=4), 'student_map', (zeros(2, 5), zeros(2, 7)), (zeros(2, 6), zeros(2, 7))),
        (SuperpixelRefiner, {}, 'network', (zeros(2, 5, 3, 4),), (zeros(2, 6, 3, 4),)),
        (ConvTokenizer, dict(window=2), 'conv', (zeros(2, 5, 4, 4),), (zeros(2, 6, 4, 4),)),
    ],
)
def test_modules_build_their_layers_on_the_first_input(owner_type, settings, name, first, other, dtype):
    owner = owner_type(**settings)

    def run(inputs):
        inputs = [tensor.to(dtype) for tensor in inputs]
        return owner(Feature(*inputs)) if owner_type is ConvTokenizer else owner(*inputs)

    assert getattr(owner, name) is None
    run(first)
    layer = getattr(owner, name)
    assert {weight.dtype for weight in layer.parameters()} == {dtype}
    run(first)
    assert getattr(owner, name) is layer
    with pytest.raises(ValueError, match=rf'{owner_type.__name__}\.{name} was built for'):
        run(other)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_layers_whose_weights_are_cast_after_building_still_run(dtype):
    torch.manual_seed(0)
    student, teacher, grid = torch.randn(2, 4, 6), torch.randn(2, 4, 8), torch.randn(2, 3, 4, 4)
    for loss in (FeatureL2Loss(), RRDLoss(queue_size=8, embed_dim=4), ChannelGraphLoss()):
        expected = loss.eval()(student, teacher)
        value = loss.to(dtype)(student, teacher)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=0.05, atol=0.01)
    for module, argument in ((SuperpixelRefiner(), grid), (ConvTokenizer(window=2), Feature(grid, (4, 4)))):
        expected = module(argument)
        torch.testing.assert_close(module.to(dtype)(argument).float(), expected, rtol=0.02, atol=0.02)
