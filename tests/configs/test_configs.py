"""Every config of the repository: it builds what it says, and takes a step at a reduced size."""

import re
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from builders import CONFIGS, REPOSITORY
from mmengine.config import Config
from mmengine.dataset import Compose
from mmpretrain.registry import DATASETS, MODELS, TRANSFORMS
from mmpretrain.structures import DataSample

from serkd_mm.distillers.model_source import find_model

FILES = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
# The ablations' own settings are compared with the tables below; that each of the many also takes a step may take its time.
EACH = [pytest.param(path, marks=pytest.mark.slow if path.parent.name == 'ablations' else []) for path in FILES]
TRANSFER = [path for path in FILES if path.parent.name == 'transfer']


def name_of(path):
    return str(path.relative_to(CONFIGS).with_suffix(''))


def load(path, monkeypatch, tmp_path=None):
    """A config that needs no file: its teacher may be random, and its distilled checkpoint is made in ``tmp_path``."""
    monkeypatch.chdir(REPOSITORY)
    config = Config.fromfile(path)
    if config.model.type == 'RelationDistiller':
        config.model.teacher.update(checkpoint=None, allow_random_teacher=True)
    elif path in TRANSFER:
        pretrained = config.model.backbone.init_cfg
        distilled = load(CONFIGS / 'serkd' / f'{Path(pretrained.checkpoint).parent.name}.py', monkeypatch)
        distilled.model.teacher = None
        pretrained.checkpoint = str(tmp_path / 'epoch_300.pth')
        torch.save(dict(state_dict=MODELS.build(distilled.model).state_dict()), pretrained.checkpoint)
    config.model.data_preprocessor = config.data_preprocessor
    return config


def reduce(model, size):
    """Make a distiller fast to try: small images, and for ViT-B a teacher as deep and a quarter as wide."""
    model.input_size = (3, size, size)
    if str(model.teacher.model).startswith('vit-base'):
        model.teacher.model = find_model(model.teacher.model, 'teacher').config
        model.teacher.model.backbone.arch = 'deit-tiny'
        model.teacher.model.head.in_channels = 192


def step(config, size):
    """Build the model of a config, and take a step on generated images."""
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    num_classes = config.data_preprocessor.num_classes
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
def test_builds_and_learns_from_generated_images(path, monkeypatch, tmp_path):
    config = load(path, monkeypatch, tmp_path)
    size = 64 if path.is_relative_to(CONFIGS / 'serkd') else 32
    if config.model.type == 'RelationDistiller' and size == 64:
        size = 64 if 'taps' in config.model.student else 224  # Any pair: 7x7 superpixels, whatever it is.
        reduce(config.model, size)
    model = step(config, size)
    if path in TRANSFER:
        start = torch.load(config.model.backbone.init_cfg.checkpoint, weights_only=True)['state_dict']
        for name, weight in model.backbone.state_dict().items():
            assert torch.equal(weight, start[f'backbone.{name}']), name
        assert model.head.num_classes == config.data_preprocessor.num_classes


@pytest.mark.parametrize('path', TRANSFER, ids=name_of)
def test_fine_tuning_reads_pictures_of_its_data_set(path, tmp_path):
    config = Config.fromfile(path)
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / 'car.jpg'), picture)
    for loader in (config.train_dataloader, config.val_dataloader):
        assert DATASETS.get(loader.dataset.type) is not None
        made = Compose([TRANSFORMS.build(transform) for transform in loader.dataset.pipeline])(
            dict(img=picture[:32, :32], img_path=str(tmp_path / 'car.jpg'), gt_label=3)
        )
        assert made['inputs'].shape == (3, 224, 224)
        assert made['data_samples'].gt_label == 3


def test_the_flagship_is_the_paper_s_section_v_a():
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
def test_students_are_the_size_of_the_zoo_s(name, parameters, monkeypatch):
    config = load(CONFIGS / 'serkd' / f'{name}.py', monkeypatch)
    config.model.teacher = None
    model = MODELS.build(config.model)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.parametrize('tokenizer', ['', '_max-pool', '_conv'])
def test_the_cnn_pipeline_is_the_paper_s(tokenizer, monkeypatch):
    config = load(CONFIGS / 'serkd' / f'resnet18_resnet101{tokenizer}.py', monkeypatch)
    model = MODELS.build(config.model)
    with torch.no_grad():
        inputs = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        features = model.teacher(inputs)
        grids = {name: view.teacher.tokenizer(features[view.tap].tensor).shape for name, view in model.distill.views.items()}
    assert {shape[2:] for shape in grids.values()} == {(14, 14)}
    assert grids['superpixels_stage1'][1] == 256
    losses = config.model.losses.values()
    for kind, total in dict(LogitKLLoss=1.0, FeatureL2Loss=1.0, TokenDistanceLoss=0.5, TokenAngleLoss=1.0).items():
        assert sum(loss.loss_weight for loss in losses if loss.type == kind) == pytest.approx(total)
    trained = [name for name, weight in model.distill.named_parameters() if weight.requires_grad]
    assert not [name for name in trained if '.teacher.' in name]
    assert any('refiner' in name for name in trained)
    assert any('.student.tokenizer.' in name for name in trained) == (tokenizer == '_conv')


def test_a_new_pair_takes_three_lines():
    text = (CONFIGS / 'serkd' / 'deit-ti_deit-b.py').read_text().splitlines()
    assert len([line for line in text if line and not line.startswith('#')]) <= 3
    config = Config.fromfile(CONFIGS / 'serkd' / 'deit-ti_deit-b.py')
    assert config.model.teacher.model == 'deit-base_16xb64_in1k'
    assert config.model.losses == Config.fromfile(CONFIGS / 'serkd' / 'deit-ti_mae-b.py').model.losses


TABLES = (CONFIGS / 'serkd' / 'README.md').read_text()


def rows_of(table):
    """Cells of each row of a table of the README, by its number."""
    section = TABLES.split(f'## Table {table}:')[1].split('##')[0]
    lines = [line for line in section.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines[2:]]


@cache
def linked(cell):
    """The config that a cell of the README links."""
    return Config.fromfile(CONFIGS / 'serkd' / re.fullmatch(r'\[.*\]\((.*)\)', cell)[1])


def weights(config, *names):
    """Weights of losses by name, 0 for a loss that is not there."""
    losses = config.model.losses
    return [losses[name].loss_weight if losses.get(name) is not None else 0 for name in names]


def test_the_tables_of_the_paper_link_every_config():
    links = re.findall(r'\[([^\]]*)\]\(([^)]*\.py)\)', TABLES)
    assert all((CONFIGS / 'serkd' / target).is_file() and Path(target).stem == name for name, target in links)
    targets = {(CONFIGS / 'serkd' / target).resolve() for _, target in links}
    assert targets == {path for path in FILES if path.parts[-2] in ('serkd', 'ablations', 'transfer')}


def test_ablations_say_what_their_row_changes_and_no_more():
    for path in (CONFIGS / 'serkd' / 'ablations').glob('*.py'):
        lines = path.read_text().splitlines()
        assert len(lines) <= 15, path
        assert re.match(r'# Table (V|VI|VII|VIII|IX)[,:]', lines[0]), path
        assert lines[1].startswith("_base_ = '../"), path


def test_table_v_leaves_out_what_it_says():
    for _, *marks, config, _ in rows_of('V'):
        present = [weight > 0 for weight in weights(linked(config), 'loss_feat', 'loss_rd', 'loss_ra')]
        assert present == [mark == 'x' for mark in marks]


def test_table_vi_merges_as_it_says():
    kinds = [linked(row[1]).model.views.superpixels.merger.type for row in rows_of('VI')]
    assert kinds[1:] == ['IdentityMerger', 'MaxPoolMerger', 'AvgPoolMerger', 'SuperpixelMerger']
    assert weights(linked(rows_of('VI')[0][1]), 'loss_rd', 'loss_ra') == [0, 0]


def test_table_vii_has_the_weights_that_it_says():
    rows = rows_of('VII')
    assert len(rows) == 12
    for *expected, tiny, _, small, _ in rows:
        for config in (linked(tiny), linked(small)):
            actual = weights(config, 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra')
            assert actual == [float(weight) for weight in expected]
        assert linked(small).model.student.model.backbone.arch == 'deit-small'


def test_tables_viii_and_ix_have_the_superpixels_that_they_say():
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
        losses = [loss for loss in config.model.losses.values() if loss is not None]
        actual = {kind: sum(loss.get('loss_weight', 1.0) for loss in losses if loss.type == kind) for kind in total}
        assert {loss.type for loss in losses} == set(total), method
        assert actual == pytest.approx(total), method
        own = config.model.student.model.head.loss.get('loss_weight', 1.0)
        assert own == {'deit-soft': 0.9, 'deit-hard': 0.5}.get(method, 1.0)
    assert Config.fromfile(CONFIGS / 'serkd' / f'{pair}_labels.py').model.type == 'ImageClassifier'
