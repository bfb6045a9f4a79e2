import pytest
import torch
from formulas import gram_cka

from serkd_mm.ops import linear_cka


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(('number', 'widths'), [(40, (6, 9)), (3, (6, 6)), (200, (5, 1)), (2, (4, 3))])
@pytest.mark.parametrize('scale', [1e-6, 1.0, 1e8])
def test_equals_the_form_with_similarities_between_rows(number, widths, scale):
    student = rows(number, widths[0])
    teacher = scale * (student @ rows(*widths, seed=1) + rows(number, widths[1], seed=2) + 5)
    result = linear_cka(student, teacher)
    assert result.ndim == 0
    torch.testing.assert_close(result.double(), gram_cka(student, teacher), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(linear_cka(student.double(), teacher.double()), gram_cka(student, teacher))


def test_rotation_scale_and_offset_change_nothing_and_other_maps_do():
    features = rows(50, 8)
    rotation, _ = torch.linalg.qr(rows(8, 8, seed=1))
    assert linear_cka(features, features).item() == pytest.approx(1, abs=1e-5)
    assert linear_cka(features, 3 * features @ rotation - 7).item() == pytest.approx(1, abs=1e-5)
    assert linear_cka(features, features @ rows(8, 8, seed=2)) < 0.95
    assert linear_cka(rows(5000, 4), rows(5000, 4, seed=3)) < 0.01


@pytest.mark.parametrize('constant', [torch.zeros(30, 4), torch.full((30, 4), 1 / 3), 1e4 * rows(4).expand(30, 4)])
def test_equal_rows_and_a_single_row_give_zero(constant):
    assert linear_cka(rows(30, 4), constant) == 0
    assert linear_cka(constant, rows(30, 4)) == 0
    assert linear_cka(constant[:1], rows(1, 4)) == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (300 * rows(64, 8, seed=seed).to(dtype) for seed in (0, 1))
    with torch.autocast('cpu', torch.bfloat16):
        result = linear_cka(student, teacher)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), gram_cka(student, teacher), rtol=1e-4, atol=0)


def test_other_shapes_raise():
    with pytest.raises(ValueError, match='the same N rows'):
        linear_cka(rows(3, 4), rows(2, 4))
    with pytest.raises(ValueError, match='the same N rows'):
        linear_cka(rows(3, 4, 2), rows(3, 4))
