"""Every config of the repository has the settings of its method, and trains at a reduced size."""

import ast
import re
from functools import cache
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import pytest
import torch
from builders import CONFIGS
from hugging_face import hub_cache  # noqa: F401
from mmengine.config import Config
from mmengine.dataset import Compose
from mmpretrain.registry import DATASETS, MODELS, TRANSFORMS
from mmpretrain.structures import DataSample
from repository_configs import FILES, TRANSFER, load, name_of, write_repository

from serkd_mm.model_sources import find_model

# Configs of small models, which cover most methods, and these of large ones take a step in the fast tests, and the others in
# the slow ones. The tests of tables below check settings.
SMALL = ('cifar', 'quickstart')
REPRESENTATIVES = (
    'serkd/deit-ti_mae-b',
    'serkd/resnet18_resnet101',
    'serkd/resnet18_dinov2-s_unlabeled',
    'transfer/deit-ti_serkd_cifar10',
    'crd/wrn-16-2_wrn-40-2_serkd',
    'crd/transfer/wrn-16-2_stl10',
)
FAST = [path for path in FILES if path.parent.name in SMALL or name_of(path) in REPRESENTATIVES]
# The study of this folder trains all of them.
STUDIED = [path for path in FILES if path.parent.name == 'tiny_imagenet']
STEPS = ('vit_serkd', 'cnn_serkd_normalized')


def marks_of(path):
    if path in FAST:
        return []
    return [pytest.mark.slow, pytest.mark.sweep] if path in STUDIED and path.stem not in STEPS else [pytest.mark.slow]


EACH = [pytest.param(path, marks=marks_of(path)) for path in FILES]


def reduce(model, size):
    """Reduce a distiller: small images, and teachers as deep as they are and narrower."""
    model.input_size = (3, size, size)
    if model.teacher is not None:
        reduce_teacher(model.teacher)
    for view in model.views.values():
        if view.tokenizer.get('grid') == 14:  # tokens of 224x224 images
            view.tokenizer.grid = size // 16
        if view.merger.get('grid') == 7 and size == 64:
            view.merger.grid = 2


def reduce_teacher(teacher):
    """Put a narrow model in the place of a wide one with the same names of modules."""
    narrow = {'vit-base-p16_mae': 'deit-tiny', 'vit-base-p14_dinov2': 'dinov2-small', 'deit3-base': 'small'}
    for name, arch in narrow.items():
        if str(teacher.model).startswith(name):
            teacher.model = find_model(teacher.model, 'teacher').config
            teacher.model.backbone.arch = arch
            if teacher.model.head is not None:
                teacher.model.head.in_channels = 192 if arch == 'deit-tiny' else 384
    if str(teacher.model).startswith('timm:regnety'):
        teacher.model = 'timm:regnety_002'


def step(config, size):
    """Build the model of a config and take a step on generated images."""
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    if config.model.type == 'RelationDistiller':
        model.set_progress(0.0)  # As the hook of the runtime does.
    num_classes = config.data_preprocessor.get('num_classes', 1)
    raw = dict(
        inputs=torch.randint(0, 256, (2, 3, size, size)),
        data_samples=[DataSample().set_gt_label(0), DataSample().set_gt_label(num_classes - 1)],
    )
    total, _ = model.parse_losses(model(**model.data_preprocessor(raw, training=True), mode='loss'))
    total.backward()
    assert total.isfinite()
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []
    return model


@pytest.mark.parametrize('path', EACH, ids=name_of)
def test_builds_and_trains_on_generated_images(path, monkeypatch, tmp_path, request):
    config = load(path, monkeypatch, tmp_path)
    size = 64 if path.is_relative_to(CONFIGS / 'serkd') or path.parent == CONFIGS / 'tiny_imagenet' else 32
    if path.is_relative_to(CONFIGS / 'serkd') and config.model.type == 'RelationDistiller':
        size = 64 if 'taps' in config.model.student else 224  # Without taps: 7x7 superpixels at any size.
        size = 112 if 'teachers' in config.model else size
        reduce(config.model, size)
    if path.stem == 'resnet18_hf-dinov2-s':
        name = config.model.teacher.model.removeprefix('hf:')
        write_repository(name, request.getfixturevalue('hub_cache'), tmp_path / 'repository')
    model = step(config, size)
    if path in TRANSFER:
        start = torch.load(config.model.backbone.init_cfg.checkpoint, weights_only=True)['state_dict']
        for name, weight in model.backbone.state_dict().items():
            assert torch.equal(weight, start[f'backbone.{name}']), name
        assert model.head.num_classes == config.data_preprocessor.num_classes


@pytest.mark.parametrize('path', TRANSFER, ids=name_of)
def test_fine_tuning_reads_images_of_its_data_set(path, tmp_path):
    config = Config.fromfile(path)
    image = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / 'car.jpg'), image)
    for loader in (config.train_dataloader, config.val_dataloader):
        assert DATASETS.get(loader.dataset.type) is not None
        packed = Compose([TRANSFORMS.build(transform) for transform in loader.dataset.pipeline])(
            dict(img=image[:32, :32], img_path=str(tmp_path / 'car.jpg'), gt_label=3)
        )
        assert packed['inputs'].shape == (3, 224, 224)
        assert packed['data_samples'].gt_label == 3


def test_serkd_ti_has_the_settings_of_section_v_a():
    config = Config.fromfile(CONFIGS / 'serkd' / 'deit-ti_mae-b.py')
    losses, merger = config.model.losses, config.model.views.superpixels.merger
    weights = {name: loss.loss_weight for name, loss in losses.items()}
    assert weights == dict(loss_kd=1.0, loss_feat=1.0, loss_rd=0.5, loss_ra=1.0)
    assert losses.loss_kd.tau == 1.0
    assert (merger.cell, merger.num_iters) == (2, 1)
    assert config.train_cfg.max_epochs == 300
    assert config.train_dataloader.batch_size * 8 == config.auto_scale_lr.base_batch_size == 1024
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-3, 0.05)
    warmup, cosine = config.param_scheduler
    assert (warmup.type, warmup.end, cosine.type, cosine.begin, cosine.end) == ('LinearLR', 5, 'CosineAnnealingLR', 5, 300)
    transforms = {transform.type: transform for transform in config.train_dataloader.dataset.pipeline}
    assert transforms['RandomResizedCrop'].scale == 224
    assert 'RandAugment' in transforms
    student = config.model.student.model
    assert {augment.type: augment.alpha for augment in student.train_cfg.augments} == dict(Mixup=0.8, CutMix=1.0)
    assert student.head.loss.label_smooth_val == 0.1
    assert config.model.teacher.model.startswith('vit-base-p16_mae-1600e-pre')
    assert len((CONFIGS / 'serkd' / 'deit-ti_mae-b.py').read_text().splitlines()) <= 62, 'one screen'


@pytest.mark.parametrize(('name', 'parameters'), [('deit-ti_mae-b', 5_910_800), ('deit-s_mae-b', 22_436_432)])
def test_students_have_as_many_parameters_as_in_the_zoo(name, parameters, monkeypatch):
    config = load(CONFIGS / 'serkd' / f'{name}.py', monkeypatch)
    config.model.teacher = None
    model = MODELS.build(config.model)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.parametrize('tokenizer', ['', '_max-pool', '_conv'])
def test_the_cnn_config_has_the_settings_of_section_iv_a_2(tokenizer, monkeypatch):
    config = load(CONFIGS / 'serkd' / f'resnet18_resnet101{tokenizer}.py', monkeypatch)
    model = MODELS.build(config.model)
    with torch.no_grad():
        student, teacher = model.extract_features(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
        tokens = model.distill.tokens(student, teacher)
        for tap, tokenizers in model.distill.tokenizers.items():
            grids = tokenizers.student(student[tap]), tokenizers.teacher(teacher[tap])
            assert {grid.shape[2:] for grid in grids} == {(14, 14)}
    stages = ['stage1', 'stage2', 'stage3']
    assert [student[stage].tensor.shape[1:] for stage in stages] == [(64, 56, 56), (128, 28, 28), (256, 14, 14)]
    assert [teacher[stage].tensor.shape[1] for stage in stages] == [256, 512, 1024]
    for view, length in dict(tokens=196, superpixels=49).items():
        assert list(tokens[view]) == stages
        assert {side.shape[1] for pair in tokens[view].values() for side in pair} == {length}
    losses = config.model.losses
    assert weights(config, *losses) == [1.0, 1.0, 0.5, 1.0]
    # A loss on a view of three stages is their mean, so the total weight of each kind is that of the paper.
    assert {name: loss.on for name, loss in losses.items()} == dict(
        loss_kd='logits', loss_feat='tokens', loss_rd='superpixels', loss_ra='superpixels'
    )
    trained = [name for name, weight in model.distill.named_parameters() if weight.requires_grad]
    assert not [name for name in trained if '.teacher.' in name]
    refined = {name.split('.network.')[0] for name in trained if 'refiner' in name}
    assert refined == {f'views.superpixels.refiners.{stage}' for stage in stages}
    learned = [name for name in trained if name.startswith('tokenizers.')]
    expected = [f'tokenizers.{stage}.student.conv.{part}' for stage in stages for part in ('weight', 'bias')]
    assert learned == (expected if tokenizer == '_conv' else [])


@pytest.mark.parametrize('name', ['serkd/resnet18_resnet101', 'cifar/cnn_serkd'])
def test_cnn_configs_are_flat(name):
    tree = ast.parse((CONFIGS / f'{name}.py').read_text())
    loops = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    others = (ast.BinOp, ast.JoinedStr, ast.Starred, ast.Lambda, ast.FunctionDef, ast.If, ast.IfExp)
    assert [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (*loops, *others))] == []
    assert all(isinstance(node, ast.Assign) for node in tree.body)
    assert {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)} == {'dict'}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Dict) and None in node.keys], 'no **unpacking'
    assert all(keyword.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords)


def test_a_new_pair_takes_three_lines():
    text = (CONFIGS / 'serkd' / 'deit-ti_deit-b.py').read_text().splitlines()
    assert len([line for line in text if line and not line.startswith('#')]) <= 3
    config = Config.fromfile(CONFIGS / 'serkd' / 'deit-ti_deit-b.py')
    assert config.model.teacher.model == 'deit-base_16xb64_in1k'
    assert config.model.losses == Config.fromfile(CONFIGS / 'serkd' / 'deit-ti_mae-b.py').model.losses


TABLES = (CONFIGS / 'serkd' / 'README.md').read_text()


def rows_of(table):
    """Return the cells of each row of a table of the README, by the number of the table."""
    section = TABLES.split(f'## Table {table}:')[1].split('##')[0]
    lines = [line for line in section.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines[2:]]


@cache
def linked(cell):
    """Load the config that a cell of the README links."""
    return Config.fromfile(CONFIGS / 'serkd' / re.fullmatch(r'\[.*\]\((.*)\)', cell)[1])


def weights(config, *names):
    """Return the weights of losses by name; 0 for a missing loss."""
    losses = config.model.losses
    return [losses[name].loss_weight if losses.get(name) is not None else 0 for name in names]


def test_the_tables_of_the_paper_link_every_config():
    links = re.findall(r'\[([^\]]*)\]\(([^)]*\.py)\)', TABLES)
    assert all((CONFIGS / 'serkd' / target).is_file() and Path(target).stem == name for name, target in links)
    targets = {(CONFIGS / 'serkd' / target).resolve() for _, target in links}
    assert targets == {path for path in FILES if path.relative_to(CONFIGS).parts[0] in ('serkd', 'transfer')}


def test_ablations_are_short_child_configs_that_name_their_table():
    for path in (CONFIGS / 'serkd' / 'ablations').glob('*.py'):
        lines = path.read_text().splitlines()
        assert len(lines) <= 15, path
        assert re.match(r'# Table (V|VI|VII|VIII|IX)[,:]', lines[0]), path
        assert lines[1].startswith("_base_ = '../"), path


def test_vit_schedule_clips_gradients_as_mmpretrain_s_deit():
    deit = Config.fromfile(Path(mmpretrain.__file__).parent / '.mim/configs/deit/deit-tiny-distilled_4xb256_in1k.py')
    ours = Config.fromfile(CONFIGS / 'serkd' / 'deit-ti_mae-b.py')
    assert ours.optim_wrapper.clip_grad == deit.optim_wrapper.clip_grad == dict(max_norm=5.0)


def test_table_v_removes_the_losses_of_its_rows():
    for _, *marks, config, _ in rows_of('V'):
        present = [weight > 0 for weight in weights(linked(config), 'loss_feat', 'loss_rd', 'loss_ra')]
        assert present == [mark == 'x' for mark in marks]


def test_table_vi_has_the_mergers_of_its_rows():
    kinds = [linked(row[1]).model.views.superpixels.merger.type for row in rows_of('VI')]
    assert kinds[1:] == ['IdentityMerger', 'MaxPoolMerger', 'AvgPoolMerger', 'SuperpixelMerger']
    assert weights(linked(rows_of('VI')[0][1]), 'loss_rd', 'loss_ra') == [0, 0]


def test_table_vii_has_the_weights_of_its_rows():
    rows = rows_of('VII')
    assert len(rows) == 12
    for *expected, tiny, _, small, _ in rows:
        for config in (linked(tiny), linked(small)):
            actual = weights(config, 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra')
            assert actual == [float(weight) for weight in expected]
        assert linked(small).model.student.model.backbone.arch == 'deit-small'


def test_tables_viii_and_ix_have_the_superpixel_settings_of_their_rows():
    for cell, tiny, _, small, _ in rows_of('VIII'):
        for config in (linked(tiny), linked(small)):
            assert config.model.views.superpixels.merger.cell == int(cell[0])
    for num_iters, tiny, _, small, _ in rows_of('IX'):
        for config in (linked(tiny), linked(small)):
            assert config.model.views.superpixels.merger.num_iters == int(num_iters)


@pytest.mark.parametrize('pair', ['deit-ti_mae-b', 'resnet18_resnet101'])
def test_baselines_have_the_losses_of_their_method(pair):
    expected = dict(
        kd={'LogitKLLoss': 1.0},
        fitnet={'LogitKLLoss': 1.0, 'FeatureL2Loss': 1.0},
        rkd={'LogitKLLoss': 1.0, 'InstanceDistanceLoss': 25.0, 'InstanceAngleLoss': 50.0},
        rrd={'LogitKLLoss': 1.0, 'RRDLoss': 1.0},
        sekd={'LogitKLLoss': 1.0, 'ChannelGraphLoss': 1.0},
    )
    expected |= {'deit-soft': {'LogitKLLoss': 0.1}, 'deit-hard': {'HardLabelLoss': 0.5}}
    for method, total in expected.items():
        config = Config.fromfile(CONFIGS / 'serkd' / f'{pair}_{method}.py')
        named = {name: loss for name, loss in config.model.losses.items() if loss is not None}
        task_weight = named.pop('loss_cls', {}).get('loss_weight', 1.0)
        losses = list(named.values())
        actual = {kind: sum(loss.get('loss_weight', 1.0) for loss in losses if loss.type == kind) for kind in total}
        assert {loss.type for loss in losses} == set(total), method
        assert actual == pytest.approx(total), method
        assert config.model.student.model.head.loss.get('loss_weight', 1.0) == 1
        assert task_weight == {'deit-soft': 0.9, 'deit-hard': 0.5}.get(method, 1.0)
    assert Config.fromfile(CONFIGS / 'serkd' / f'{pair}_labels.py').model.type == 'ImageClassifier'
