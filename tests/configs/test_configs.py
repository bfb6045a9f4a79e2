"""Every config of the repository: it builds what it says, and takes a step at a reduced size."""

import pytest
import torch
from builders import CONFIGS, REPOSITORY
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

FILES = sorted(path for folder in ('serkd', 'quickstart') for path in (CONFIGS / folder).glob('*.py'))
DISTILLING = [path for path in FILES if "type='RelationDistiller'" in Config.fromfile(path).pretty_text]


def load(path, monkeypatch):
    """A config with its teacher allowed to be random, its model ready to build."""
    monkeypatch.chdir(REPOSITORY)
    config = Config.fromfile(path)
    if path in DISTILLING:
        config.model.teacher.update(checkpoint=None, allow_random_teacher=True)
    config.model.data_preprocessor = config.data_preprocessor
    return config


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_builds_and_learns_from_generated_images(path, monkeypatch):
    config = load(path, monkeypatch)
    size = 32
    if path in DISTILLING:
        config.model.input_size = (3, size, size)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    num_classes = config.data_preprocessor.num_classes
    raw = dict(
        inputs=torch.randint(0, 256, (2, 3, size, size)),
        data_samples=[DataSample().set_gt_label(0), DataSample().set_gt_label(num_classes - 1)],
    )
    losses = model(**model.data_preprocessor(raw, training=True), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None] == []


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
