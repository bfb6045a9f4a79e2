"""Attempts with unusual students and teachers."""

import copy
import io
from pathlib import Path

import torch
from builders import (
    NUM_CLASSES,
    PREPROCESSOR,
    STUDENT,
    TEACHER,
    build_distiller,
    cnn_distiller_config,
    distiller_config,
    images,
    labels,
)
from judging import Act, check, refused, works, works_or_refused
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from odd_models import odd_config
from starting import builds, check_close, check_equal, python, step
from torch import nn

CNN = cnn_distiller_config
GRAY = dict(num_classes=NUM_CLASSES, mean=[127.5], std=[127.5])


def with_parts(part: dict, **changes) -> dict:
    """Copy a model's config with changed settings of its backbone."""
    part = copy.deepcopy(part)
    part['backbone'].update(changes)
    return part


TWIN = dict(teacher__model=STUDENT, teacher__taps=dict(patches='backbone.layers[-1]', logits='head.layers.head_dist'))


def twins(_folder: Path) -> None:
    model = build_distiller(losses__loss_feat=None, **TWIN)
    model.teacher.model.load_state_dict(model.student.state_dict())
    losses = step(model.eval())
    wrong = {name: loss.item() for name, loss in losses.items() if name != 'loss_cls' and loss.abs() > 1e-6}
    check(not wrong, f'a student equal to its teacher has losses {wrong}')


def separate_twins(_folder: Path) -> None:
    shared = copy.deepcopy(STUDENT)
    model = build_distiller(**{**TWIN, 'teacher__model': shared, 'student__model': shared})
    before = copy.deepcopy(model.teacher.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step(model.train())
    optimizer.step()
    check_equal(model.teacher.state_dict(), before, 'the teacher after a step of the student')


def same_features_twice(config=distiller_config, **changes) -> Act:
    """A teacher with random parts or batch norms gives the same features in two training steps."""

    def act(_folder: Path) -> None:
        model = build_distiller(config, **changes).train()
        before = copy.deepcopy(model.teacher.state_dict())
        features = []
        for _ in range(2):
            step(model)
            model.train()
            features.append(model.extract_features(images())[1])
        for name, feature in features[0].items():
            check(torch.equal(feature.tensor, features[1][name].tensor), f'the teacher is not deterministic: {name}')
        check_equal(model.teacher.state_dict(), before, 'the buffers of the teacher')

    return act


def gray(_folder: Path, teacher_channels: int = 1) -> None:
    model = cnn_distiller_config(input_size=(1, 32, 32), data_preprocessor=GRAY)
    for part, channels in ((model.student.model, 1), (model.teacher.model, teacher_channels)):
        part.backbone.in_channels = channels
        part.data_preprocessor = dict(GRAY)
    step(MODELS.build(model).train(), images()[:, :1])


def frozen_stages(_folder: Path) -> None:
    model = build_distiller(CNN, student__model__backbone__frozen_stages=2).train()
    frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    check(frozen, 'frozen_stages freezes nothing')
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.5)
    step(model)
    optimizer.step()
    check_equal({name: dict(model.named_parameters())[name] for name in frozen}, frozen, 'frozen stages')


def checkpointing(tap: str) -> Act:
    """Gradient checkpointing runs modules again during the backward pass; the gradients must be the same."""

    def act(_folder: Path) -> None:
        gradients = []
        for with_cp in (False, True):
            model = build_distiller(CNN, student__model__backbone__with_cp=with_cp, student__taps__stage2=tap).train()
            step(model)
            gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
        for name, gradient in gradients[0].items():
            check_close(gradients[1][name], gradient, f'gradient of {name} with checkpointing', 1e-4)

    return act


def same_step(tolerance: float = 1e-5, **changes) -> Act:
    """Settings that must not change the losses."""

    def act(_folder: Path) -> None:
        models = [build_distiller(CNN, **settings).train() for settings in ({}, changes)]
        models[1].load_state_dict(models[0].state_dict())  # A memory format changes the order of initial random numbers.
        models[1].teacher.model.load_state_dict(models[0].teacher.model.state_dict())
        one, two = map(step, models)
        for name, loss in one.items():
            check_close(two[name], loss, name, tolerance)

    return act


def copied(_folder: Path) -> None:
    model = build_distiller().train()
    other = copy.deepcopy(model)
    check(other.teacher is model.teacher, 'a copy has a teacher of its own')
    torch.manual_seed(0)
    one = step(model)
    torch.manual_seed(0)
    two = step(other)
    check(all(torch.equal(one[name], two[name]) for name in one), 'a copy has other losses')
    with torch.no_grad():
        next(other.parameters()).add_(1)
    check(not torch.equal(next(model.parameters()), next(other.parameters())), 'a copy shares weights')


def pickled(_folder: Path) -> None:
    model, file = build_distiller().eval(), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    check(torch.equal(other(images()), model(images())), 'a pickled model predicts otherwise')
    step(other.train())


def double(_folder: Path) -> None:
    model = build_distiller().double().train()
    losses = step(model, images().double())
    check(losses['loss_ra'].dtype == torch.float64, 'losses are not in float64')


def exported(folder: Path) -> None:
    model = MODELS.build(distiller_config(teacher=None)).eval()
    options = dict(input_names=['x'], opset_version=17, dynamo=False)
    torch.onnx.export(model, (images(),), str(folder / 'x.onnx'), **options)
    import onnxruntime  # noqa: PLC0415 (needed here alone)

    (logits,) = onnxruntime.InferenceSession(str(folder / 'x.onnx')).run(None, {'x': images().numpy()})
    check_close(torch.from_numpy(logits), model(images()), 'ONNX', 1e-4)


def traced(folder: Path) -> None:
    model = build_distiller().eval()
    script = torch.jit.trace(model, images(), check_trace=False)
    script.save(folder / 'x.pt')
    check_close(torch.jit.load(folder / 'x.pt')(images(2)), model(images(2)), 'TorchScript')
    check(not [name for name in script.state_dict() if 'teacher' in name], 'the teacher is in the TorchScript')


def evaluation_mode(_folder: Path) -> None:
    model = build_distiller(CNN).eval()
    before = {name: value.clone() for name, value in model.named_buffers()}
    step(model)
    check_equal(dict(model.named_buffers()), before, 'running statistics after a step in evaluation mode')


def strict_loading(_folder: Path) -> None:
    model, other = build_distiller(CNN), build_distiller(CNN)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1)
    model.load_state_dict(other.state_dict(), strict=True)
    check_equal(model.state_dict(), other.state_dict(), 'a loaded state dict')
    wrapped = nn.ModuleDict({'a': build_distiller(CNN)})
    check({name.split('.')[0] for name in wrapped.state_dict()} == {'a'}, 'names inside another module')
    wrapped.load_state_dict(wrapped.state_dict(), strict=True)


def data_parallel(_folder: Path) -> None:
    model = build_distiller()
    wrapped = nn.DataParallel(model).train()
    losses = wrapped(images(), labels(), mode='loss')
    check(losses['loss_ra'].isfinite(), 'loss_ra is not finite')
    check(all(name.startswith('module.') for name in wrapped.state_dict()), 'names')
    wrapped.load_state_dict(wrapped.state_dict(), strict=True)


def multi_label(_folder: Path) -> None:
    head = dict(type='MultiLabelLinearClsHead', num_classes=NUM_CLASSES, in_channels=64)
    model = build_distiller(CNN, student__model__head=head).train()
    samples = [DataSample().set_gt_label([0, 2]).set_gt_score(torch.tensor([1.0, 0, 1, 0])) for _ in range(4)]
    step(model, samples=samples)


def two_steps_of_other_size(_folder: Path) -> None:
    model = build_distiller(CNN).train()
    step(model, images(size=32))
    step(model, images(size=48))
    step(model, images(batch=1, size=32))


def two_models_alternate(_folder: Path) -> None:
    alone = step(build_distiller(CNN).train())
    one, two = build_distiller(CNN).train(), build_distiller().train()
    step(two)
    check(all(torch.equal(alone[name], value) for name, value in step(one).items()), 'another model changes the losses')


def student_changes_weights(_folder: Path) -> None:
    """After many large steps the teacher's weights are the same, its gradients None, and it is no parameter."""
    model = build_distiller(CNN).train()
    before = copy.deepcopy(model.teacher.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        losses = model(images(), labels(), mode='loss')
        model.parse_losses(losses)[0].backward()
        optimizer.step()
    check_equal(model.teacher.state_dict(), before, 'the teacher after five steps')
    check(all(weight.grad is None for weight in model.teacher.parameters()), 'the teacher has gradients')


def wrong_channels(_folder: Path) -> None:
    gray(_folder, teacher_channels=3)


def no_compiler(folder: Path) -> None:
    code = 'from builders import *; from starting import step; step(build_distiller(student__compile=True).train())'
    none = str(folder / 'none')
    python('-c', code, CXX=none, CC=none, TORCHINDUCTOR_CACHE_DIR=str(folder / 'cache'), TORCHINDUCTOR_COMPILE_THREADS='1')


SMALL = with_parts(TEACHER, arch=dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8))
SMALL['head'] = dict(SMALL['head'], in_channels=8)
RANDOM = with_parts(TEACHER, drop_rate=0.5, drop_path_rate=0.5)
SEVEN = dict(TEACHER, head=dict(TEACHER['head'], num_classes=7))
FOUR = with_parts(TEACHER, patch_size=4)
GRID = {f'views__{view}__merger': dict(type='SuperpixelMerger', grid=2) for view in ('tokens', 'superpixels')}
ARC = dict(type='ArcFaceClsHead', num_classes=NUM_CLASSES, in_channels=64)

ATTEMPTS = [
    works('a teacher smaller than the student', builds(teacher__model=SMALL)),
    works('a student equal to its teacher has no distillation loss', twins),
    works('one dict as student and teacher: two models', separate_twins),
    works('a teacher with dropout and stochastic depth', same_features_twice(teacher__model=RANDOM)),
    works('a teacher with batch norms, in training mode', same_features_twice(CNN)),
    works('five large steps change no teacher', student_changes_weights),
    works(
        'a teacher with other classes, without a loss on logits',
        builds(teacher__model=SEVEN, losses__loss_kd=dict(type='FeatureL2Loss', on='logits')),
    ),
    works('a teacher with smaller patches, on a grid', builds(teacher__model=FOUR, **GRID)),
    works('images of one channel', gray),
    refused('images of one channel and a teacher of three', wrong_channels, 'model.teacher', 'channels'),
    works(
        'a student with an odd backbone of one channel and images of three is refused or built',
        builds(odd_config, path='backbone.block'),
    ),
    works('images that are not square', builds(CNN, input_size=(3, 64, 32))),
    works("a teacher's input_size that is not square", builds(CNN, teacher__input_size=(48, 64))),
    works('batches of another size than the dry run, and of one image', two_steps_of_other_size),
    works('a student with frozen stages and weight decay', frozen_stages),
    works('gradient checkpointing, taps at stages', checkpointing('backbone.layer2')),
    refused(
        'gradient checkpointing, a tap inside a checkpointed block',
        checkpointing('backbone.layer2[0].conv2'),
        'model.student.taps.stage2',
        'with_cp',
    ),
    works_or_refused(
        'synchronized batch norms on a CPU',
        builds(CNN, student__model__backbone__norm_cfg=dict(type='SyncBN')),
        'model',
        'SyncBatchNorm',
    ),
    works('channels_last on both sides', same_step(1e-4, student__channels_last=True, teacher__channels_last=True)),
    works('a teacher in bfloat16 autocast', builds(teacher__autocast_dtype='bfloat16')),
    works('a teacher in float16 autocast on a CPU', builds(teacher__autocast_dtype='float16')),
    works_or_refused('compile=True without a C++ compiler', no_compiler, 'model.student.compile', 'compiler', seconds=120),
    works('a deep copy', copied),
    works('a pickled model', pickled),
    works('float64', double),
    works('ONNX of the distiller itself', exported),
    works('TorchScript of the distiller itself', traced),
    works('a step in evaluation mode', evaluation_mode),
    works('strict loading, also inside another module', strict_loading),
    works('DataParallel', data_parallel),
    works('two distillers in one process', two_models_alternate),
    works_or_refused('a student for several labels', multi_label, 'model'),
    works_or_refused('a student with a margin head', builds(CNN, student__model__head=ARC), 'model'),
    works(
        'a student with a preprocessor of its own',
        builds(student__model=dict(STUDENT, data_preprocessor=dict(PREPROCESSOR, to_rgb=False))),
    ),
    refused('a student that is a backbone', builds(student__model=STUDENT['backbone']), 'model.student.model', 'Classifier'),
    refused(
        'a student without a head',
        builds(student__model=dict(type='ImageClassifier', backbone=STUDENT['backbone'])),
        'model.student',
    ),
]
