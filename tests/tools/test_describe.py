"""One page about a pair, before any data is there."""

import re

import pytest
from builders import REPOSITORY, build_distiller, run_python, training_config


def describe(config, *options, succeed=True):
    return run_python('tools/describe.py', config, *options, succeed=succeed, COLUMNS='180')


def rows(page):
    """Cells of the first row of the tables that begins with a name, by that."""
    lines = (re.split(r'\s*│\s*', line.strip())[1:-1] for line in page.splitlines() if line.startswith('│'))
    cells: dict[str, list[str]] = {}
    for first, *rest in lines:
        cells.setdefault(first, rest)
    return cells


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp('describe')
    training_config(root / 'no images', root / 'work').dump(root / 'config.py')
    return root / 'config.py'


def test_the_page_says_what_the_model_is(config):
    page = describe(config)
    cells, model = rows(page), build_distiller()
    assert cells['student'][:2] == ['DistilledVisionTransformer', f'{millions(model.student.parameters()):.2f} M']
    assert cells['teacher'][:2] == ['VisionTransformer', f'{millions(model.teacher.parameters()):.2f} M']
    assert cells['patches'] == ['backbone.layers[-1]', '18 x 16', 'backbone.layers[-1]', '17 x 24']
    assert cells['tokens'][-2:] == ['16 x 16', '16 x 24']
    assert cells['superpixels'][-2:] == ['4 x 16', '4 x 24']
    assert cells['loss_rd'][:3] == ['TokenDistanceLoss', 'superpixels', '0.5']
    assert all(float(cells[name][-1]) > 0 for name in ('loss_cls', 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra'))
    names = model.state_dict()
    for part in ('backbone', 'head', 'distill'):
        assert cells[f'{part}.*'][0] == str(sum(name.startswith(f'{part}.') for name in names))
    assert 'Memory of a step of 4 images' in page
    assert 'random' in page


def test_mistakes_show_without_data(config):
    told = describe(config, '--cfg-options', 'model.losses.loss_rd.on=superpixel', succeed=False)
    assert "model.losses.loss_rd.on='superpixel'" in told.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['deit-ti_mae-b', 'resnet18_resnet101', 'mobilenet-v2_swin-t'])
def test_the_configs_of_the_repository_are_described(name):
    cells = rows(describe(REPOSITORY / 'configs' / 'serkd' / f'{name}.py'))
    expected = {'deit-ti_mae-b': '5.91 M', 'resnet18_resnet101': '11.69 M', 'mobilenet-v2_swin-t': '3.50 M'}
    assert cells['student'][1] == expected[name]


def millions(tensors):
    return sum(tensor.numel() for tensor in tensors) / 1e6
