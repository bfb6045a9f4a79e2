"""tools/plan_training.py: its formulas, its counts, its tables, and the page that quotes them."""

import re
import sys

import pytest
import torch
from builders import (
    REPOSITORY,
    build_distiller,
    cnn_distiller_config,
    distiller_config,
    images,
    run_forked,
    training_config,
)
from caches import write_teacher_cache
from mmengine.config import Config
from pages import DOCS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training_variants import use_repeatable_views

sys.path += [str(REPOSITORY / 'tools'), str(REPOSITORY / 'tools' / 'benchmarks')]
import plan_check
import plan_training
from describe import count_saved, generated_batch
from kernel_counts import Kernel, KernelCounter, StepCounts, count_step
from training_time import Gpu, Rates, cache_bytes, cached_step, cores_for, hours, live_step, making_step, memory_of

PAGE = DOCS / 'user_guides' / 'plan_a_training.md'
RATES = Rates(Gpu(bfloat16=100, float32=10, float64=5, bandwidth=1000, memory=80), 0.5, 0.5, 1e-5)


def kernel(gflops, gigabytes, dtype=torch.bfloat16):
    return Kernel(int(gflops * 1e9), int(gigabytes * 1e9), dtype)


COUNTS = StepCounts(
    batch_size=100,
    forward_flops={'student': 1, 'teacher': 1},
    teacher=[kernel(1000, 1)] * 2,
    student=[kernel(100, 4), kernel(10, 0, torch.float32), kernel(10, 0, torch.float64)],
    decoding=[kernel(0, 0.5)],
    optimizer=[kernel(0, 1)],
    angles=[],
    memory={'student': 1, 'teacher': 2, 'gradients': 4, 'optimizer': 8, 'saved': 16},
    cached=[(['loss_kd'], '', 20), (['loss_rd'], '', 12)],
)


def test_a_step_takes_the_longer_of_arithmetic_and_memory_kernel_by_kernel():
    # 1000 GFLOPs at 50 TFLOPS: 20 ms, longer than 1 GB at 500 GB/s. 4 GB: 8 ms, longer than 100 GFLOPs at 50 TFLOPS.
    student = 8 + 2 + 4  # 10 GFLOPs at 5 TFLOPS in float32, and at 2.5 in float64.
    live, cached, making = (step(COUNTS, RATES) for step in (live_step, cached_step, making_step))
    assert 1e3 * live.gpu == pytest.approx(2 * 20 + student + 2)
    assert 1e3 * cached.gpu == pytest.approx(1 + student + 2)
    assert 1e3 * making.gpu == pytest.approx(2 * 20)
    assert (live.host, live.bound) == (pytest.approx(5e-5), 'GPU')
    assert live.images_per_second(8) == pytest.approx(8 * 100 / 0.056)


def test_a_step_of_small_kernels_waits_for_the_host():
    slow = Rates(RATES.gpu, launch=1.0)
    step = cached_step(COUNTS, slow)
    assert (step.seconds, step.bound) == (4.0, 'starts of kernels')  # The optimizer starts one kernel for all weights.
    assert step.images_per_second(2) == 50


def test_hours_cores_disk_and_memory():
    assert hours(300 * 1_281_167, 10_000) == pytest.approx(10.676, abs=1e-3)
    assert cores_for(1001, 100) == 11
    assert cache_bytes(COUNTS, 1000, 10) == 10 * 1000 * (20 + 12 + 8)
    live, cached = (sum(memory_of(COUNTS, cached=cached).values()) for cached in (False, True))
    assert (live, cached) == (1 + 2 + 4 + 4 + 8 + 16, 1 + 4 + 4 + 8 + 16)


def test_the_angle_kernel_is_estimated_as_in_the_published_table():
    table = (REPOSITORY / 'tools' / 'benchmarks' / 'results' / 'kernel_statistics.md').read_text()
    after = table.split('## Before')[0]
    for name in ('A100', 'H100'):
        for tokens in (49, 64, 196):
            (published,) = re.findall(rf'^\| {name} \| {tokens} \| 128 \| ([\d.]+) ', after, re.MULTILINE)
            estimated = 1e3 * Rates(RATES.gpu, angle_device=name).angle_seconds([(128, tokens)])
            assert f'{estimated:.3f}' == published
    longer = [Rates(RATES.gpu).angle_seconds([(128, tokens)]) for tokens in (49, 60, 100, 196, 400)]
    assert longer == sorted(longer)


def test_kernels_and_saved_tensors_of_a_small_module_are_counted():
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False))
    model.teachers, model.teacher = {}, None
    inputs = torch.randn(5, 8)
    with KernelCounter() as step, count_saved(model) as saved:
        loss = model(inputs).sum()
    forward = list(step.kernels)
    with step:
        loss.backward()
    assert sum(saved.values()) == 4 * 5 * (8 + 16)  # The inputs of both layers; that of the second is ReLU's output.
    flops = [one.flops for one in forward if one.flops]
    assert flops == [2 * 5 * 8 * 16, 2 * 5 * 16 * 4]
    # Twice as many in the backward pass, but for the gradient of the inputs.
    assert sum(one.flops for one in step.kernels) == 3 * sum(flops) - flops[0]
    # Products read both factors and write one; ReLU reads and writes; the sum writes one number. Transposing is free.
    assert [one.num_bytes for one in forward] == [
        4 * (5 * 8 + 8 * 16 + 5 * 16),
        4 * 2 * 5 * 16,
        4 * (5 * 16 + 16 * 4 + 5 * 4),
        4 * (5 * 4 + 1),
    ]


@pytest.mark.parametrize('build', [distiller_config, pytest.param(cnn_distiller_config, marks=pytest.mark.slow)])
def test_a_step_is_counted_as_it_would_run(build):
    model = build_distiller(build)
    config = Config(dict(optim_wrapper=dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))))
    batch = generated_batch(model, 4)
    with count_saved(model) as saved, FlopCounterMode(display=False) as forward:
        total = model.parse_losses(model.distillation_step(**batch))[0]
    with FlopCounterMode(display=False) as backward:
        total.backward()
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    counts = count_step(model, config, 4, mixed=False)
    # Real tensors on a CPU save the same, but for the relation losses: a GPU computes in float64 more of what is not kept.
    assert counts.memory['saved'] == sum(saved.values())
    assert counts.memory['student'] == weights
    assert counts.memory['gradients'] == trained
    tensors = sum(weight.requires_grad for weight in model.parameters())
    assert counts.memory['optimizer'] == 2 * trained + 4 * tensors  # Two moments, and the number of steps in float32.
    counted = sum(kernel.flops for kernel in counts.teacher + counts.student)
    assert counted == pytest.approx(forward.get_total_flops() + backward.get_total_flops(), rel=0.02)
    assert sum(kernel.flops for kernel in counts.teacher) >= 4 * counts.forward_flops['teacher']
    views = 3 if build is cnn_distiller_config else 1
    assert counts.angles == [(4, counts.angles[0][1])] * views


@pytest.fixture(scope='module')
def config(image_root, tmp_path_factory):
    root = tmp_path_factory.mktemp('plan')
    training_config(image_root, root / 'work').dump(root / 'config.py')
    return root / 'config.py'


def plan(*arguments, **settings):
    return run_forked('tools/plan_training.py', *arguments, **settings)


def rows(page):
    """Return the cells of each row of the tables by its first cells."""
    cells = [line.strip('| ').split(' | ') for line in page.splitlines() if line.startswith('|')]
    return {tuple(row[:2]) if row[0] in ('live', 'cached') else row[0]: row[1:] for row in cells}


def test_the_tables_of_a_small_pair(config):
    page = plan(config, '--gpus', '1', '2', '--views', '3', '--launch-us', '100000', '--cores-per-gpu', '1')
    found = rows(page)
    assert page.startswith('ESTIMATES: counted, not measured; nothing ran on a GPU.')
    assert '2 epochs of 12 images, 4 images a GPU and step.' in page
    kernels = {part: int(found[part][2]) for part in ('teacher, until its last tap', 'reading a cache')}
    of_student = int(found['student and losses, forward and backward'][2])
    for kind, others in zip(('live', 'cached'), kernels.values(), strict=True):
        one, two = (found[kind, gpus] for gpus in '12')
        seconds = (others + of_student) / 10  # Each kernel is started in a tenth of a second.
        assert one[1:3] == two[1:3] == [f'{1e3 * seconds:.1f}', 'starts of kernels']
        assert float(one[4]) == pytest.approx(2 * 12 / 4 * seconds / 3600, rel=0.05)
        assert float(two[4]) == pytest.approx(float(one[4]) / 2, rel=0.05)
        assert one[5:] == ['1', one[4]]
    stored = 8 + 384 + 12 + 8  # Logits, tokens as PCA, relations, checksums.
    assert f'3 views x 12 images: {3 * 12 * stored / 1e9:,.1f} GB.' in page
    assert found['loss_feat'] == ['16 x 24 as PCA of 24 dimensions, int8', '384']
    loaded = plan(config, '--images', '1000000', '--epochs', '5', '--images-per-core', '1', '--gpus', '1')
    assert '5 epochs of 1,000,000 images' in loaded
    assert float(rows(loaded)['live', '1'][-1]) == pytest.approx(5e6 / 16 / 3600, abs=0.1)


def test_what_cannot_be_planned_is_reported_in_one_line(config, image_root, tmp_path):
    absent = f'train_dataloader.dataset.data_prefix={tmp_path}/none'
    message = plan(config, '--cfg-options', absent, succeed=False)
    assert message.startswith(f'error: {config}: the training images cannot be counted; set their number by --images.')
    assert len(message.splitlines()) == 1
    cache = tmp_path / 'cache'
    write_teacher_cache(cache, build_distiller(), images(), distiller_config().teacher)
    cached = use_repeatable_views(training_config(image_root, tmp_path / 'work'), num_views=1, cache=str(cache))
    cached.model.teacher.cache = str(cache)
    cached.dump(tmp_path / 'cached.py')
    message = plan(tmp_path / 'cached.py', succeed=False)
    assert message.startswith(f'error: {tmp_path}/cached.py: model.teacher.cache is set.')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(custom_hooks=[dict(type='TapCurriculumHook')]), 'TapCurriculumHook moves a tap of the teacher'),
        (dict(model=dict(teacher=dict(device='cuda:1'))), 'device is set for a teacher'),
    ],
)
def test_teachers_that_the_plan_would_misjudge_are_refused(changes, message):
    with pytest.raises(plan_training.PlanError, match=message):
        plan_training.check_plannable('config.py', Config({'model': {'teacher': {}}, **changes}))


@pytest.mark.parametrize('flags', [['--utilization', '60'], ['--gpus', '0'], ['--views', '1.5'], ['--peak-tflops', '-1']])
def test_wrong_numbers_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        plan_training.parser().parse_args(['config.py', *flags])
    assert f'{flags[0]}: {flags[1]} must be' in capsys.readouterr().err


@pytest.mark.usefixtures('runner_scope')
def test_loading_is_measured_on_a_photograph(config, image_root, monkeypatch):
    monkeypatch.setattr(plan_training, 'PHOTO_SECONDS', 0.05)
    settings, photo = Config.fromfile(config), next(image_root.rglob('*.jpg'))
    assert 10 < plan_training.measure_loading(settings, photo) < 1e5
    del settings.train_dataloader.dataset.pipeline[0]
    with pytest.raises(plan_training.PlanError, match='does not load image files'):
        plan_training.measure_loading(settings, photo)


@pytest.mark.slow
def test_the_page_shows_what_the_tool_prints():
    section = PAGE.read_text().split('## Three trainings on H100s')[1].split('## How far')[0]
    of_config = {part.split('`')[1]: part for part in section.split('### ')[1:]}
    assert list(of_config) == ['deit-ti_mae-b', 'deit-s_mae-b', 'resnet18_resnet101']
    printed = plan(REPOSITORY / 'configs' / 'serkd' / 'deit-ti_mae-b.py').splitlines()  # Each takes ten seconds.
    quoted = [line for line in of_config['deit-ti_mae-b'].splitlines() if line.startswith(('| ', '10 views'))]
    assert len(quoted) > 20
    assert all(line in printed for line in quoted)


@pytest.mark.slow
@pytest.mark.usefixtures('runner_scope')
def test_the_page_shows_the_comparison_with_measurements():
    section = PAGE.read_text().split('## How far the estimates are off')[1]
    assert plan_check.compare_with_gpu('resnet18_8xb32_in1k') in section
    table, memory = plan_check.compare_with_cpu().split('\n\n')
    assert table in section
    counted, *measured = re.findall(r'(\d+) MiB', memory)
    assert all(f'{number} MiB' in ' '.join(section.split()) for number in (counted, *measured))
    ratios = [float(ratio) for ratio in re.findall(r'\| (\d\.\d\d)(?= \|)', section)]
    assert len(ratios) == 9
    assert (min(ratios), max(ratios)) == (0.71, 1.30)  # As the text says.
