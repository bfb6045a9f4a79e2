"""The relation losses in each of their forms, and comparisons of value and gradient, for the tests of ``serkd_mm.ops``."""

import pytest
import torch
from mmengine.utils import digit_version

from serkd_mm.ops import angle_relation_loss, distance_relation_loss, reference
from serkd_mm.ops import squared_distances as squared_distances_module

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def loss_without_reads(loss):
    """Compute a loss on a GPU without Triton, or as there without looking at the data if there is no GPU."""

    def compute(student, teacher):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('SERKD_MM_TRITON', '0')
            patch.setattr(squared_distances_module, 'reads_are_free', lambda _: False)
            return loss(student.to(DEVICE), teacher.to(DEVICE)).cpu()

    return compute


def triton_angle_loss(student, teacher, **settings):
    """The angle loss by the Triton kernel: on a GPU if there is one, otherwise as there, by Triton's interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SERKD_MM_TRITON', '1')
        patch.setattr(squared_distances_module, 'reads_are_free', lambda _: False)
        return angle_relation_loss(student.to(DEVICE), teacher.to(DEVICE), **settings).cpu()


def has_triton():
    """Whether the kernel runs here: without a GPU it needs the interpreter of Triton 3 or later."""
    try:
        import triton  # noqa: PLC0415
    except ImportError:
        return False
    return torch.cuda.is_available() or digit_version(triton.__version__) >= digit_version('3.0')


NEEDS_TRITON = pytest.mark.skipif(not has_triton(), reason='needs Triton, and a GPU or its interpreter')
LOSSES_AND_REFERENCES = [
    pytest.param(distance_relation_loss, reference.distance_relation_loss, id='distance'),
    pytest.param(angle_relation_loss, reference.angle_relation_loss, id='angle'),
    pytest.param(loss_without_reads(distance_relation_loss), reference.distance_relation_loss, id='distance on a GPU'),
    pytest.param(loss_without_reads(angle_relation_loss), reference.angle_relation_loss, id='angle on a GPU'),
    pytest.param(triton_angle_loss, reference.angle_relation_loss, id='triton angle', marks=NEEDS_TRITON),
]
LOSSES = [pytest.param(param.values[0], id=param.id, marks=param.marks) for param in LOSSES_AND_REFERENCES]


def tokens(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def value_and_gradient(loss, student, teacher):
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


def assert_close(actual, expected, rtol, floor=1e-9):
    error = (actual.double() - expected.double()).abs().max()
    assert error <= rtol * expected.double().abs().max() + floor, f'error {error:.2e} of {expected.abs().max():.2e}'


def squared_and_inverse_distances(num_tokens, seed):
    """Float64 ``(2, L, L)``; the last token equals token number ``seed``, so there is no direction between them."""
    points = tokens(2, num_tokens, 3, seed=seed, dtype=torch.float64)
    points[:, -1] = points[:, seed]
    squared = (points[:, :, None] - points[:, None]).square().sum(dim=3)
    return squared, torch.where(squared > 0, squared**-0.5, 0.0)
