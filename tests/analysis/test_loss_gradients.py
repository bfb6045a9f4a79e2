"""The gradients of the losses of a step, against gradients of their sum, and tools/analysis/loss_gradients.py."""

import json
import math
import re

import pytest
import torch
from builders import build_distiller, cnn_distiller_config, distiller_config, images, labels, run_forked, training_config
from cache_tool import cache_teacher, save_teacher, write_config
from torch import nn

from serkd_mm.analysis.loss_gradients import TOTAL, compare_gradients, gradient_products, mean_and_spread

TOOL = 'tools/analysis/loss_gradients.py'
LOSSES = ['loss_cls', 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra']


def losses_of(model):
    torch.manual_seed(0)
    return model.train().loss(images(), labels())


def gradients_of(model, loss):
    parameters = list(model.student.parameters())
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten().double() for g, p in zip(found, parameters, strict=True)]
    )


@pytest.mark.parametrize('config', [distiller_config, cnn_distiller_config])
def test_gradients_of_losses_add_up_to_that_of_their_sum(config):
    model = build_distiller(config)
    losses = losses_of(model)
    rows = compare_gradients(
        list(losses), products := gradient_products(losses, model.student.parameters()), task='loss_cls'
    )
    assert all(parameter.grad is None for parameter in model.student.parameters())
    vectors = {name: gradients_of(model, loss) for name, loss in losses.items()}
    of_sum = gradients_of(model, sum(losses.values()))
    torch.testing.assert_close(sum(vectors.values()), of_sum, rtol=1e-4, atol=1e-6)
    assert products.sum().sqrt().item() == pytest.approx(of_sum.norm().item(), rel=1e-5)
    for name, vector in {**vectors, TOTAL: of_sum}.items():
        assert rows[name]['norm'] == pytest.approx(vector.norm().item(), rel=1e-5)
        assert rows[name]['to_total'] == pytest.approx(torch.cosine_similarity(vector, of_sum, dim=0).item(), abs=1e-5)
        to_task = torch.cosine_similarity(vector, vectors['loss_cls'], dim=0).item()
        assert rows[name]['to_task'] == pytest.approx(to_task, abs=1e-5)
    total = sum(vector.norm().item() for vector in vectors.values())
    for name, vector in vectors.items():
        assert rows[name]['share'] == pytest.approx(vector.norm().item() / total, rel=1e-5)


def test_a_doubled_weight_doubles_the_norm():
    norms = []
    for weight in (1.0, 2.0):
        model = build_distiller(losses__loss_ra__loss_weight=weight)
        losses = losses_of(model)
        assert list(losses) == LOSSES
        products = gradient_products(losses, model.student.parameters())
        norms.append({name: row['norm'] for name, row in compare_gradients(LOSSES, products, None).items()})
    assert norms[1]['loss_ra'] == pytest.approx(2 * norms[0]['loss_ra'], rel=1e-6)
    for name in LOSSES[:-1]:
        assert norms[1][name] == pytest.approx(norms[0][name], rel=1e-6)


def test_gradients_with_checkpointing_are_the_same():
    products = []
    for checkpointing in (False, True):
        model = build_distiller(cnn_distiller_config, student__model__backbone__with_cp=checkpointing)
        products.append(gradient_products(losses_of(model), model.student.parameters()))
    torch.testing.assert_close(*products)


def test_gradients_that_are_known():
    x, y = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    losses = {'loss_cls': 3 * x[0], 'loss_b': 4 * x[1] - 0 * y[0], 'loss_zero': 0 * x[0], 'loss_alone': torch.tensor(1.0)}
    products = gradient_products(losses, [x, y])
    assert products.diagonal().tolist() == [9, 16, 0, 0]
    rows = compare_gradients(list(losses), products, 'loss_cls')
    assert rows['loss_cls'] == pytest.approx({'norm': 3, 'share': 3 / 7, 'to_task': 1, 'to_total': 0.6})
    assert rows['loss_b'] == pytest.approx({'norm': 4, 'share': 4 / 7, 'to_task': 0, 'to_total': 0.8})
    nothing = {'norm': 0, 'share': 0, 'to_task': math.nan, 'to_total': math.nan}
    for name in ('loss_zero', 'loss_alone'):
        assert rows[name] == pytest.approx(nothing, nan_ok=True)
    assert rows[TOTAL] == pytest.approx({'norm': 5, 'share': math.nan, 'to_task': 0.6, 'to_total': 1}, nan_ok=True)
    without_task = compare_gradients(['loss_a', 'loss_b'], products[:2, :2], 'loss_cls')
    assert all(math.isnan(row['to_task']) for row in without_task.values())
    assert without_task['loss_b']['share'] == pytest.approx(4 / 7)


def test_mean_and_spread():
    assert mean_and_spread([1.0, 3.0, math.nan]) == (2.0, pytest.approx(2**0.5))
    mean, spread = mean_and_spread([1.0])
    assert mean == 1
    assert math.isnan(spread)
    assert all(map(math.isnan, mean_and_spread([math.nan])))


def measured(config, folder, *arguments):
    out = folder / 'gradients.json'
    printed = run_forked(TOOL, config, *arguments, '--out', out)
    page = json.loads(out.read_text())
    assert printed.startswith(page['title'])
    return page['title'], page['losses'], printed


def mean_of(losses, number):
    return {name: row[number]['mean'] for name, row in losses.items()}


def test_tool_measures_training_batches(image_root, tmp_path):
    config = tmp_path / 'config.py'
    training_config(image_root, tmp_path / 'work').dump(config)
    title, losses, printed = measured(config, tmp_path, '--batches', 2)
    assert '8 images in 2 batches (student: at initialization; teacher: random weights)' in title
    assert sorted(losses) == sorted([*LOSSES, TOTAL])
    shares = mean_of(losses, 'share')
    assert shares.pop(TOTAL) is None
    assert sum(shares.values()) == pytest.approx(1)
    values = mean_of(losses, 'value')
    assert values.pop(TOTAL) == pytest.approx(sum(values.values()))
    assert losses['loss_cls']['to_task'] == {'mean': pytest.approx(1), 'spread': pytest.approx(0, abs=1e-6)}
    cells = re.search(r'^ *loss_kd +(\S+) ± \S+ +(\S+) ± \S+ +(\S+) ± \S+ % ', printed, re.MULTILINE)
    assert float(cells[3]) == pytest.approx(100 * shares['loss_kd'], abs=0.05)

    _, doubled, _ = measured(
        config, tmp_path, '--batches', 2, '--cfg-options', 'model.losses.loss_kd.loss_weight=2', 'model.student.compile=True'
    )
    norms, more = mean_of(losses, 'norm'), mean_of(doubled, 'norm')
    assert more.pop('loss_kd') == pytest.approx(2 * norms['loss_kd'], rel=1e-5)
    assert all(more[name] == pytest.approx(norms[name], rel=1e-5) for name in LOSSES if name != 'loss_kd')
    assert more[TOTAL] != pytest.approx(norms[TOTAL], rel=1e-3)


def test_tool_measures_a_part_of_the_student(image_root, tmp_path):
    config = tmp_path / 'config.py'
    training_config(image_root, tmp_path / 'work').dump(config)
    shares = []
    for part, number in (('backbone.', 7_888), ('head.', 136)):
        title, losses, _ = measured(config, tmp_path, '--batches', 1, '--part', part)
        assert f'the {number:,} trained parameters of the student, {part}*, 4 images' in title
        shares.append(mean_of(losses, 'share'))
    assert shares[0]['loss_rd'] > 0
    assert shares[1]['loss_rd'] == 0  # Relations are read before the head.
    unknown = run_forked(TOOL, config, '--part', 'neck.', succeed=False)
    assert unknown == 'error: --part neck.: the student has no such trained parameter; there are backbone., head.\n'


def test_tool_reads_a_checkpoint_and_a_moment_of_schedules(image_root, tmp_path):
    config = tmp_path / 'config.py'
    schedule = dict(type='Linear', begin=0.0, end=1.0)
    training_config(image_root, tmp_path / 'work', **{'model.losses.loss_rd.loss_weight': schedule}).dump(config)
    weights = {f'{name}': 2 * value for name, value in build_distiller().state_dict().items()}
    torch.save({'state_dict': weights}, tmp_path / 'trained.pth')
    torch.save({name: value for name, value in weights.items() if name[:8] != 'distill.'}, tmp_path / 'exported.pth')
    title, losses, _ = measured(config, tmp_path, tmp_path / 'trained.pth', '--batches', 1)
    assert f'4 images in 1 batch (student: {tmp_path}/trained.pth; teacher' in title
    assert losses['loss_rd']['norm'] == {'mean': 0, 'spread': None}
    assert losses['loss_rd']['to_total']['mean'] is None
    half = run_forked(TOOL, config, tmp_path / 'exported.pth', '--batches', 9, '--progress', 0.5, '--out', tmp_path / 'x.md')
    page = (tmp_path / 'x.md').read_text()
    assert '12 images in 3 batches' in page  # All that there are.
    assert 'exported.pth, but its projections (distill.*) are random;' in page
    assert '| loss | value | norm | share | to task | to total |' in page
    assert re.search(r'^\| loss_rd \| 0\.\d+ ± ', page, re.MULTILINE)
    assert 'loss_rd' in half


@pytest.mark.slow
def test_tool_reads_a_teacher_cache(image_root, tmp_path, monkeypatch):
    config = write_config(tmp_path / 'config.py', image_root, save_teacher(tmp_path / 'teacher.pth'))
    cache_teacher(monkeypatch, config, '--out', tmp_path / 'cache', '--views', 1, '--tokens', 'full', '--dtype', 'float32')
    cached = tmp_path / 'cache' / 'train.py'
    title, losses, _ = measured(cached, tmp_path, '--batches', 2)
    assert f'teacher: cache {tmp_path}/cache' in title
    live = ('--cfg-options', 'model.teacher.cache=None', 'train_dataloader.dataset.cache=None')
    title, expected, _ = measured(cached, tmp_path, '--batches', 2, *live)
    assert 'teacher.pth' in title
    for name in LOSSES:
        assert losses[name]['norm']['mean'] == pytest.approx(expected[name]['norm']['mean'], rel=1e-4)


def test_mistakes_are_one_line(image_root, tmp_path):
    plain, headless = tmp_path / 'plain.py', tmp_path / 'headless.py'
    config = training_config(image_root, tmp_path / 'work')
    config.model.teacher = None
    config.dump(headless)
    config.model = config.model.student.model
    config.dump(plain)
    for path, message in {
        plain: 'model.type is ImageClassifier, but only a RelationDistiller has these losses',
        headless: 'model.teacher is not set',
    }.items():
        printed = run_forked(TOOL, path, succeed=False)
        assert printed.startswith(f'error: {path}: {message}')
        assert printed.count('\n') == 1
    assert "--progress: '2' must be a number from 0 to 1" in run_forked(TOOL, plain, '--progress', 2, succeed=False)
