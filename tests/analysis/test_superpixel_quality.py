"""What is measured of superpixels, against formulas in float64, and tools/analysis/superpixel_quality.py."""

import json
import math

import numpy as np
import pytest
import torch
from builders import build_distiller, cnn_distiller_config, distiller_config, run_forked, training_config, write_images
from formulas import optional_superpixels
from mmengine.dataset import Compose, pseudo_collate
from mmpretrain.registry import TRANSFORMS

from serkd_mm.analysis.superpixel_quality import Variant, distance_correlation, explained_variance, measure
from serkd_mm.ops import OutputGrid

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]


def grid_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cells_along(size, cell, axis):
    """The tokens of each cell, and the cell of each token, along one side."""
    if isinstance(cell, int):
        number = -(-size // cell)
        members = [[min(cell * k + i, size - 1) for i in range(cell)] for k in range(number)]
        return members, [place // cell for place in range(size)]
    number = cell[1 + axis]
    members = [list(range(k * size // number, -(-(k + 1) * size // number))) for k in range(number)]
    return members, [math.floor((place + 0.5) * number / size) for place in range(size)]


def expected_measures(image, cell, num_iters, variant):
    """Each measure of an image, number by number."""
    settings = dict(normalize=variant.normalize, tau=variant.tau, exclude_self=variant.exclude_self)
    superpixels, association = (part[0].numpy() for part in optional_superpixels(image[None], cell, num_iters, **settings))
    grid, (height, width) = image.numpy(), image.shape[1:]
    (rows, own_row), (columns, own_column) = cells_along(height, cell, 0), cells_along(width, cell, 1)
    tokens = np.stack([grid[:, y, x] for y in range(height) for x in range(width)])
    own = [r * len(columns) + c for r in own_row for c in own_column]
    pooled = np.stack([np.mean([grid[:, y, x] for y in ys for x in xs], axis=0) for ys in rows for xs in columns])

    def explained(rebuilt):
        return (
            1
            - sum(((x - y) ** 2).sum() for x, y in zip(tokens, rebuilt, strict=True))
            / ((tokens - tokens.mean(0)) ** 2).sum()
        )

    pairs = [(i, j) for i in range(len(pooled)) for j in range(i)]
    distances = [[np.linalg.norm(side[i] - side[j]) for i, j in pairs] for side in (superpixels, pooled)]
    return {
        'own_cell': np.mean([row.argmax() == cell for row, cell in zip(association, own, strict=True)]),
        'entropy': np.mean([-sum(q * math.log(q) for q in row if q > 0) for row in association]),
        'explained': explained([sum(q * s for q, s in zip(row, superpixels, strict=True)) for row in association]),
        'explained_by_cells': explained([pooled[cell] for cell in own]),
        'correlation': np.corrcoef(distances)[0, 1],
    }


@pytest.mark.parametrize('variant', ['paper', 'normalize+tau=0.5+exclude-self'])
@pytest.mark.parametrize(('cell', 'num_iters'), [(2, 1), (2, 3), (3, 2), (('grid', 3, 2), 2)])
def test_measures_equal_their_formulas(variant, cell, num_iters):
    grid, variant = 1 + grid_of(3, 6, 7, 4), Variant.from_name(variant)
    measured = measure(grid, OutputGrid(*cell[1:]) if isinstance(cell, tuple) else cell, num_iters, variant)
    for index, image in enumerate(grid):
        for name, value in expected_measures(image, cell, num_iters, variant).items():
            assert measured[name].dtype == torch.float64
            assert measured[name][index].item() == pytest.approx(value, abs=1e-9), name


def test_tokens_that_are_equal_in_each_cell_have_average_pooling_as_superpixels():
    colors = 100 * torch.eye(16).view(1, 16, 4, 4) * torch.linspace(1, 2, 16).view(1, 1, 4, 4)
    measured = measure(colors.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), 2, 1, Variant())
    for name, value in dict(own_cell=1, entropy=0, explained=1, explained_by_cells=1, correlation=1).items():
        assert measured[name].item() == pytest.approx(value, abs=1e-6), name


def test_a_very_soft_association_explains_nothing():
    measured = measure(grid_of(2, 5, 4, 4), 2, 1, Variant(tau=1e9))
    torch.testing.assert_close(measured['entropy'], torch.full((2,), math.log(4), dtype=torch.float64))
    torch.testing.assert_close(measured['explained'], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6)
    tokens = grid_of(2, 9, 5)
    identity = torch.eye(9).expand(2, 9, 9)
    assert torch.equal(explained_variance(tokens, tokens, identity), torch.ones(2, dtype=torch.float64))


def test_what_is_undefined_is_not_a_number():
    equal = measure(torch.full((1, 3, 4, 4), 0.1), 2, 1, Variant())
    for name in ('explained', 'explained_by_cells', 'correlation'):
        assert equal[name].isnan().all()
    assert equal['entropy'].item() == pytest.approx(math.log(4))
    for number in (1, 2):
        assert distance_correlation(grid_of(2, number, 3), grid_of(2, number, 3, seed=1)).isnan().all()
    tokens = grid_of(2, 4, 3)
    torch.testing.assert_close(distance_correlation(tokens, 3 * tokens + 1), torch.ones(2, dtype=torch.float64))


def test_names_of_variants():
    for name, settings in {
        'paper': {},
        'normalize': dict(normalize=True),
        'tau=0.5+exclude-self': dict(tau=0.5, exclude_self=True),
        'normalize+tau=0.25+exclude-self': dict(normalize=True, tau=0.25, exclude_self=True),
    }.items():
        assert Variant.from_name(name) == Variant(**settings)
        assert str(Variant(**settings)) == name
    for name, message in {
        'normal': "'normal': a variant is paper, or normalize",
        'tau=0': 'tau must be a positive finite number',
        'tau=x': 'tau must be a positive finite number',
        'normalize+normalize': 'appears twice',
        'paper+tau=2': 'a variant is paper, or',
    }.items():
        with pytest.raises(ValueError, match=message):
            Variant.from_name(name)


def quality(*arguments, succeed=True):
    return run_forked('tools/analysis/superpixel_quality.py', *arguments, succeed=succeed)


def written_config(root, model, pipeline=PIPELINE):
    """Write a config whose test pipeline has no chance in it."""
    config = training_config(root, root / 'work')
    config.model, config.test_dataloader.dataset.pipeline = model, pipeline
    config.dump(root / 'config.py')
    return root / 'config.py'


@pytest.mark.slow
def test_rows_are_the_measures_of_the_tokens_of_teacher_and_student(image_root, tmp_path):
    model = build_distiller().eval()
    with torch.no_grad():
        for part in (model.student, model.teacher.model):  # Small random weights make tokens nearly equal.
            for weight in part.parameters():
                weight.mul_(3)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'student.pth')
    torch.save(dict(state_dict=model.teacher.model.state_dict()), tmp_path / 'teacher.pth')
    config = written_config(tmp_path, distiller_config(teacher__checkpoint=str(tmp_path / 'teacher.pth')))
    options = ['--cells', 2, 1, '--iters', 1, 3, '--variants', 'paper', 'normalize+tau=0.2', '--batch-size', 5]
    printed = quality(config, tmp_path / 'student.pth', image_root, *options, '--out', tmp_path / 'all.json')
    rows = json.loads((tmp_path / 'all.json').read_text())['rows']
    assert len(rows) == 2 * 2 * 2 * 2

    pipeline = Compose([TRANSFORMS.build(transform) for transform in PIPELINE])
    samples = pseudo_collate([pipeline({'img_path': str(path)}) for path in sorted(image_root.rglob('*.jpg'))])
    with torch.no_grad():
        student, teacher = model.extract_features(model.data_preprocessor(samples)['inputs'])
    tokenizer = model.distill.tokenizers['patches']
    grids = dict(student=tokenizer.student(student['patches']), teacher=tokenizer.teacher(teacher['patches']))
    for row in rows:
        assert (row['view'], row['tap'], row['tokens']) == ('superpixels', 'patches', [4, 4])
        cell = 4 // row['superpixels'][0]
        measured = measure(grids[row['side']], cell, row['num_iters'], Variant.from_name(row['variant']))
        for name, values in measured.items():
            assert row[name] == pytest.approx(values.nanmean().item(), abs=1e-4), (name, row)
        assert f'{100 * row["own_cell"]:.1f} %' in printed
        assert f'{row["explained"]:.3f}' in printed

    # Without a checkpoint the teacher alone is measured; of two images, one is the first and one is in the middle.
    alone = quality(config, image_root, '--max-images', 2, '--out', tmp_path / 'table.md')
    assert '2 images (teacher: ' in alone
    table = [line for line in (tmp_path / 'table.md').read_text().splitlines() if line.startswith('| teacher')]
    assert [line.split(' | ')[2:7] for line in table] == [['cell=(2, 2)', '4x4', '2x2', 'paper', '1']]
    chosen = [sorted(image_root.rglob('*.jpg'))[index] for index in (0, 6)]
    quality(config, *chosen, '--untrained-student', '--out', tmp_path / 'both.md')
    both = (tmp_path / 'both.md').read_text().splitlines()
    assert both[-1:] == table
    assert both[-2].startswith('| student')


@pytest.mark.slow
def test_views_of_several_taps_and_mistakes(image_root, tmp_path):
    config = written_config(tmp_path, cnn_distiller_config())
    printed = quality(config, image_root, '--max-images', 1)
    of_teacher = [line.split() for line in printed.splitlines() if line.strip().startswith('teacher')]
    assert [row[2] for row in of_teacher] == ['stage1', 'stage2', 'stage3']
    merger = 'model.views.superpixels.merger'
    for options, message in {
        ('--view', 'tokens'): "error: --view tokens: no such view with a SuperpixelMerger. Valid: 'superpixels'",
        ('--cells', '9'): 'error: --cells: cell 9x9 is larger than the token grid 8x8',
        ('--cells', '0'): "'0' must be a whole number, 1 or more",
        ('--variants', 'tau=-1'): 'tau must be a positive finite number',
        ('--out', 'x.csv'): 'must end in .md or .json',
        (
            '--cfg-options',
            f'{merger}._delete_=True',
            f'{merger}.type=AvgPoolMerger',
        ): 'no view that a loss reads has a Superpixel',
        (
            '--cfg-options',
            'model.teacher.cache=none',
        ): "model.teacher.cache='none': a cache does not hold the teacher's features",
        ('--cfg-options', 'model.teacher=None'): 'model.teacher is not set',
    }.items():
        assert message in quality(config, image_root, *options, succeed=False)
    assert 'neither a picture nor a folder' in quality(
        config, image_root / 'class0' / '0.jpg', tmp_path / 'x', succeed=False
    )
    write_images(tmp_path / 'larger', per_class=1, size=44)
    unequal = written_config(tmp_path / 'larger', cnn_distiller_config(), PIPELINE[::2])
    mixed = quality(unequal, image_root, tmp_path / 'larger', succeed=False)
    assert 'A batch needs images of one size' in mixed
    assert 'no images' in quality(config, tmp_path / 'student.pth', succeed=False)
