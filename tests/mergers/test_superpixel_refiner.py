import torch

from serkd_mm.mergers import SuperpixelRefiner


def tokens_of(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_starts_as_the_identity_and_learns():
    refiner, tokens = SuperpixelRefiner(), tokens_of(2, 12, 5)
    assert not refiner.state_dict()
    refined = refiner(tokens, (3, 4))
    assert torch.equal(refined, tokens)
    (refined * tokens_of(2, 12, 5)).sum().backward()
    _, pointwise = refiner.network
    assert pointwise.weight.grad.abs().sum() > 0


def test_is_a_depthwise_and_a_pointwise_convolution_over_the_grid():
    refiner, tokens = SuperpixelRefiner(), tokens_of(2, 12, 5)
    refiner(tokens, (3, 4))
    depthwise, pointwise = refiner.network
    with torch.no_grad():
        pointwise.weight.normal_(generator=torch.Generator().manual_seed(1))
        pointwise.bias.fill_(0.5)
    grid = tokens.double().unflatten(1, (3, 4))
    for row, column in ((0, 0), (1, 2), (2, 3)):
        expected = depthwise.bias.double().clone()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if 0 <= row + dy < 3 and 0 <= column + dx < 4:
                    weight = depthwise.weight[:, 0, dy + 1, dx + 1].double()
                    expected = expected + weight * grid[:, row + dy, column + dx]
        expected = grid[:, row, column] + expected @ pointwise.weight[:, :, 0, 0].double().T + pointwise.bias.double()
        actual = refiner(tokens, (3, 4))[:, row * 4 + column]
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
