"""tools/describe.py: its tables and its error messages."""

import re

import pytest
import torch
from builders import REPOSITORY, build_distiller, distiller_config, images, run_forked, training_config
from caches import write_teacher_cache
from training_variants import use_repeatable_views


def describe(config, *options, succeed=True):
    return run_forked('tools/describe.py', config, *options, succeed=succeed, COLUMNS='180')


def tables(page):
    """Return the cells of each row by table and first cell; a row of several taps has the tap in its key."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in page.splitlines():
        cells = re.split(r'\s{2,}', line.strip())
        if not line.startswith(' ') and line.strip():
            title = cells[0]
        elif len(cells) > 1:
            key = ' '.join(cells[:2]) if title == 'Tokens' else cells[0]
            found.setdefault(title, {})[key] = cells[1:]
    return found


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp('describe')
    training_config(root / 'no images', root / 'work').dump(root / 'config.py')
    return root / 'config.py'


def test_tables_match_the_model(config):
    page = describe(config)
    cells, model = tables(page), build_distiller()
    models, saved = cells['Models'], cells['Trained and saved']
    assert models['student'][:2] == ['DistilledVisionTransformer', f'{millions(model.student.parameters()):.2f} M']
    assert models['teacher'][:2] == ['VisionTransformer', f'{millions(model.teacher.parameters()):.2f} M']
    assert models['student'][2] == f'{num_bytes(model.student) / 2**20:.1f} MiB float32'
    assert models['teacher'][3:] == ['0.35 M', '0.35 M (100 %)', '3x32x32', '16']
    assert cells['Taps']['patches'] == ['backbone.layers[-1]', '18 x 16', 'backbone.layers[-1]', '17 x 24']
    assert cells['Views']['tokens'] == ['PatchTokenizer()', 'IdentityMerger()']
    assert cells['Tokens']['tokens patches'][-2:] == ['16 x 16', '16 x 24']
    assert cells['Tokens']['superpixels patches'][-2:] == ['4 x 16', '4 x 24']
    losses = cells['Losses (weighted, on two generated images)']
    assert losses['loss_rd'][:3] == ['TokenDistanceLoss', 'superpixels', '0.5']
    assert losses['loss_cls'][:3] == ["the student's task loss", 'labels', '1']
    assert all(float(losses[name][-1]) > 0 for name in ('loss_cls', 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra'))
    names = model.state_dict()
    for part in ('backbone', 'head', 'distill'):
        assert saved[f'{part}.*'][0] == str(sum(name.startswith(f'{part}.') for name in names))
    assert 'Memory of a step of 4 images' in cells
    assert 'random' in page
    stored = cells["The teacher's outputs in a cache (tools/cache_teacher.py)"]
    assert stored['loss_ra, loss_rd'] == ['isometric triangle of 4 tokens, float16', '12']
    assert stored['loss_feat'] == ['16 x 24 as PCA of 24 dimensions, int8', '384']


def test_a_config_that_reads_a_cache_is_described_without_its_teacher(tmp_path):
    cache = tmp_path / 'cache'
    write_teacher_cache(cache, build_distiller(), images(), distiller_config().teacher)
    config = use_repeatable_views(training_config(tmp_path, tmp_path / 'work'), num_views=1, cache=str(cache))
    config.model.teacher.cache = str(cache)
    config.dump(tmp_path / 'config.py')
    page = describe(tmp_path / 'config.py')
    cells = tables(page)
    assert list(cells['Models']) == ['side', 'student']
    assert cells['Read from the teacher cache']['loss_ra, loss_rd'] == ['isometric triangle of 4 tokens, float32', '24']
    assert f'are read from {cache}' in page


def test_weights_and_schedules_are_shown_and_set_by_options(config):
    key = 'model.losses.loss_kd.loss_weight'
    options = [f'{key}._delete_=True', f'{key}.type=Linear', f'{key}.begin=1.0', f'{key}.end=0.25', f'{key}.until=0.5']
    page = describe(config, '--cfg-options', *options, 'model.losses.loss_cls.loss_weight=0.5')
    losses = tables(page)['Losses (weighted, on two generated images)']
    assert losses['loss_kd'][2] == 'Linear(1 to 0.25, until 0.5)'
    assert losses['loss_cls'][2] == '0.5'


def test_config_error_is_reported_without_data(config):
    message = describe(config, '--cfg-options', 'model.losses.loss_rd.on=superpixel', succeed=False)
    assert "model.losses.loss_rd.on='superpixel'" in message.splitlines()[-1]


def test_file_that_is_no_model_config_is_reported_in_one_line(tmp_path):
    (tmp_path / 'config.py').write_text('x = 1')
    output = describe(tmp_path / 'config.py', succeed=False)
    assert output == f'error: {tmp_path}/config.py is no config of a run: it has no model=dict(type=...)\n'


def test_unreadable_teacher_checkpoint_is_reported(config, tmp_path):
    (tmp_path / 'teacher.pth').write_bytes(b'PK')
    message = describe(config, '--cfg-options', f'model.teacher.checkpoint={tmp_path}/teacher.pth', succeed=False)
    assert f"{config}: model.teacher.checkpoint='{tmp_path}/teacher.pth'" in message.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['deit-ti_mae-b', 'resnet18_resnet101', 'mobilenet-v2_swin-t'])
def test_repository_configs(name):
    student = {'deit-ti_mae-b': '5.91 M', 'resnet18_resnet101': '11.69 M', 'mobilenet-v2_swin-t': '3.50 M'}
    cells = tables(describe(REPOSITORY / 'configs' / 'serkd' / f'{name}.py'))
    assert cells['Models']['student'][1] == student[name]
    if name == 'resnet18_resnet101':  # A view of several taps has a row for each.
        rows = {row: shapes[-2:] for row, shapes in cells['Tokens'].items() if row.startswith('superpixels')}
        assert rows == {
            'superpixels stage1': ['49 x 64', '49 x 256'],
            'superpixels stage2': ['49 x 128', '49 x 512'],
            'superpixels stage3': ['49 x 256', '49 x 1024'],
        }


def test_the_early_stop_is_shown_with_what_it_saves(config):
    taps = 'model.teacher.taps.patches=backbone.layers[0]'
    options = [taps, 'model.losses.loss_kd=None', 'model.student.model.head.distilled_training=False']
    of_teacher = tables(describe(config, '--cfg-options', *options))['Models']['teacher']
    flops, early = (float(cell.split()[0]) for cell in of_teacher[3:5])
    assert early < 0.5 * flops
    assert of_teacher[4].endswith(f'({100 * early / flops:.0f} %)')
    layer = 17 * (4 * 24 * 24 + 2 * 24 * 48) + 2 * 17 * 17 * 24  # Projections, FFN and attention of 17 tokens.
    patches = 16 * 24 * 3 * 8 * 8
    assert flops * 1e6 == pytest.approx(patches + 3 * layer + 24 * 4, rel=0.01)
    assert early * 1e6 == pytest.approx(patches + layer, rel=0.01)


def num_bytes(model):
    return sum(value.nbytes for value in (*model.parameters(), *model.buffers()))


def millions(tensors):
    return sum(tensor.numel() for tensor in tensors) / 1e6


def test_a_teacher_on_a_gpu_of_another_machine_is_described(config, tmp_path):
    weights = tmp_path / 'teacher.pth'
    torch.save(build_distiller().teacher.model.state_dict(), weights)
    page = describe(config, '--cfg-options', f'model.teacher.checkpoint={weights}', 'model.teacher.device=cuda:64')
    assert f"The teacher's weights: {weights}" in page
