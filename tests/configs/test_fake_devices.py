"""Steps on fake GPUs: right devices and dtypes, no wait for the GPU, no shape that depends on values.

A config of every component is tested; ``pytest -m sweep tests/configs`` tests all configs.
"""

from contextlib import nullcontext

import pytest
import torch
from builders import CONFIGS
from fake_devices import NoUploads, Synchronization, fake_devices, formats, move
from hugging_face import hub_cache  # noqa: F401
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from repository_configs import FILES, load, name_of, write_repository
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor

from serkd_mm.losses import LogitKLLoss
from serkd_mm.mergers import AvgPoolMerger
from serkd_mm.ops import squared_distances
from serkd_mm.tokenizers import PatchTokenizer

FAST = ('cifar/cnn_cskd', 'cifar/cnn_serkd', 'cifar/vit_serkd')
# Together they have every component.
COVERING = (
    *FAST,
    'cifar/cnn_serkd_max-pool',
    'cifar/vit_dist',
    'cifar/vit_dkd',
    'cifar/vit_nkd',
    'cifar/vit_rkd',
    'cifar/vit_rrd',
    'cifar/vit_sekd',
    'crd/resnet8x4',
    'crd/shufflenetv2',
    'crd/vgg8',
    'crd/wrn-16-2',
    'serkd/deit-ti_deit3-s_nkd-vitkd',
    'serkd/resnet18_dinov2-s_unlabeled',
    'serkd/resnet18_hf-dinov2-s',
    'serkd/resnet18_resnet101_conv',
    'serkd/vit-s_dinov2-b_leap',
)
HEADS = {'levit-128s_3rdparty_in1k': 'head.head_dist', 'efficientformer-l1_3rdparty_8xb128_in1k': 'head.dist_head'}
DTYPES = (torch.bfloat16, torch.float16)


def marks_of(path):
    if name_of(path) in FAST:
        return []
    return [pytest.mark.slow] if name_of(path) in COVERING else [pytest.mark.slow, pytest.mark.sweep]


EACH = [pytest.param(path, marks=marks_of(path)) for path in FILES]


def build(config):
    """Build a model, ready to take a step."""
    config.model.data_preprocessor = config.data_preprocessor
    model = MODELS.build(config.model)
    if hasattr(model, 'set_progress'):
        model.set_progress(0.0)  # As the hook of the runtime does.
    return model


def image_size(path):
    """Return the size of the images in training: 224 pixels, or 32 for the small models."""
    return 64 if path.parent.name == 'tiny_imagenet' else 32 if path.parts[-2] in ('cifar', 'crd', 'quickstart') else 224


def step(model, size, device, num_classes, mode, is_placed=True):
    """Take a step up to the losses on generated images; return their sum. Before a teacher is placed, the step moves it."""
    move(model, device, mode)
    samples = [DataSample().set_gt_label(number % num_classes) for number in range(4)]
    raw = dict(inputs=torch.randint(0, 256, (4, 3, size, size)), data_samples=samples)
    data = model.data_preprocessor(raw, training=True)  # Copies images and labels, as any training of mmpretrain.
    with NoUploads() if is_placed else nullcontext():
        total, losses = model.parse_losses(model(**data, mode='loss'))
    assert isinstance(total, FakeTensor)
    for name, loss in losses.items():
        assert (loss.device, loss.dtype, loss.shape) == (torch.device(device), torch.float32, ()), name
    return total


def check_steps(model, size, num_classes, monkeypatch):
    """Take steps on fake GPUs in half precision, first with teachers on another GPU, and backward on a fake CPU."""
    teachers = list(getattr(model, 'teachers', {}).values())
    models = [getattr(model, 'student', model), *(teacher.model for teacher in teachers)]
    # On a CPU, relation losses read values: here they compute as on a GPU.
    monkeypatch.setattr(squared_distances, 'reads_are_free', lambda _: False)
    with fake_devices(monkeypatch) as mode:
        for teacher in teachers:
            teacher.load()
            teacher.device = torch.device('cuda:1')
        with torch.autocast('cuda', DTYPES[0]):
            step(model, size, 'cuda:0', num_classes, mode, is_placed=not teachers)
        for teacher in teachers:
            assert {weight.device for weight in teacher.parameters()} == {torch.device('cuda:1')}
            teacher.device = None
            move(teacher, 'cuda:0', mode)
        own = {teacher.config.autocast_dtype for teacher in teachers} - {None}
        for dtype in DTYPES:
            with torch.autocast('cuda', dtype), formats(*models) as found:
                step(model, size, 'cuda:0', num_classes, mode)
            assert found == {dtype} | own
        for teacher in teachers:
            move(teacher, 'cpu', mode)
        with torch.autocast('cpu', DTYPES[0]):  # A backward pass on a GPU needs a driver.
            total = step(model, size, 'cpu', num_classes, mode)
        total.backward()
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        assert [name for name, weight in trained.items() if weight.grad is None] == []
        assert {weight.grad.dtype for weight in trained.values()} == {torch.float32}


@pytest.mark.parametrize('path', EACH, ids=name_of)
def test_a_step_of_a_config(path, monkeypatch, tmp_path, request):
    config = load(path, monkeypatch, tmp_path)
    if path.stem == 'resnet18_hf-dinov2-s':
        name = config.model.teacher.model.removeprefix('hf:')
        write_repository(name, request.getfixturevalue('hub_cache'), tmp_path / 'repository')
    check_steps(build(config), image_size(path), config.data_preprocessor.get('num_classes', 1), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize('student', HEADS)
def test_a_step_of_the_other_distilled_heads(student, monkeypatch):
    config = load(CONFIGS / 'serkd' / 'deit-ti_mae-b_kd.py', monkeypatch)
    config.model.student = dict(model=student, taps=dict(logits=HEADS[student]))
    config.model.teacher.update(model='resnet18_8xb32_in1k', taps=dict(logits='head.fc'))
    config.model.views, config.model.losses = {}, dict(loss_kd=config.model.losses.loss_kd)
    check_steps(build(config), 224, 1000, monkeypatch)


def test_a_config_of_every_component_takes_a_step():
    def types(settings):
        if isinstance(settings, dict):
            yield from filter(None, [settings.get('type')])
            settings = list(settings.values())
        for value in settings if isinstance(settings, list) else []:
            yield from types(value)

    used = {name for path in COVERING for name in types(Config.fromfile(CONFIGS / f'{path}.py').model.to_dict())}
    ours = {name for name, module in MODELS.module_dict.items() if module.__module__.startswith('serkd_mm.')}
    assert ours - used == {
        'EfficientFormerDistilledClsHead',  # These have a test of their own.
        'LeViTDistilledClsHead',
        'HuggingFaceModel',  # The distiller builds these.
        'LabelFreePreprocessor',
        'ViewPreprocessor',
    }


def on_cpu(value):
    return value + torch.ones(value.shape[-1:] or 2)


def read(value):
    return value * value.sum().item()


def select(value):
    return value + value.nonzero().sum()


def copy(value):
    return value.cpu().to(value.device)


def stack(value):
    return torch.stack([value.sum(), torch.tensor(0.0)]).sum() + value


def upload(value):
    return value * torch.tensor([2.0]).to(value.device)


def factorize(value):
    return value * torch.linalg.cholesky(value.reshape(-1, 1, 1)[:1]).sum()


def write(value):
    return value.index_put((value.isfinite(),), value.sum())


MISTAKES = {
    on_cpu: (RuntimeError, 'cpu'),
    read: (DataDependentOutputException, '_local_scalar_dense'),
    select: (DynamicOutputShapeException, 'nonzero'),
    copy: (Synchronization, 'to the CPU'),
    write: (Synchronization, 'with a mask'),
    stack: (AssertionError, 'stack.* of tensors on cuda:0, cpu'),
    upload: (Synchronization, 'from the CPU'),
    factorize: (Synchronization, 'raises if it fails'),
}
PLACES = {'loss': (LogitKLLoss, 'compare'), 'merger': (AvgPoolMerger, 'forward'), 'tokenizer': (PatchTokenizer, 'forward')}


@pytest.mark.parametrize(
    ('mistake', 'place'), [*((mistake, 'loss') for mistake in MISTAKES), (on_cpu, 'merger'), (on_cpu, 'tokenizer')]
)
def test_a_mistake_is_found(mistake, place, monkeypatch):
    component, method = PLACES[place]
    right = getattr(component, method)
    model = build(load(CONFIGS / 'cifar' / 'vit_serkd_avg-pool.py', monkeypatch))
    monkeypatch.setattr(component, method, lambda *args: mistake(right(*args)))
    error, message = MISTAKES[mistake]
    with fake_devices(monkeypatch) as mode:
        move(model.teacher, 'cuda:0', mode)
        with pytest.raises(error, match=message):
            step(model, 32, 'cuda:0', 10, mode)


def test_autocast_that_is_off_is_found(monkeypatch):
    model = build(load(CONFIGS / 'cifar' / 'vit_serkd.py', monkeypatch))
    with fake_devices(monkeypatch) as mode, formats(model) as found:
        step(model, 32, 'cuda:0', 10, mode, is_placed=False)
    assert found == {torch.float32}
