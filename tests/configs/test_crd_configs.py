"""The configs of the CRD benchmark have the settings of its methods; its transfer reads the data that its page prepares."""

import os
import re
import subprocess

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import CONFIGS, images, labels
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS, TRANSFORMS

CRD = CONFIGS / 'crd'
PAGE = (CRD / 'README.md').read_text()
PAIRS = ['resnet8x4_resnet32x4', 'wrn-16-2_wrn-40-2', 'vgg8_vgg13', 'shufflenetv2_resnet32x4']
# Weights of the losses of each method: CRD's scripts, DIST's dist_cifar.yaml, RRD's and SeRKD's papers.
METHODS = {
    'kd': dict(loss_cls=0.1, loss_kd=0.9),
    'dist': dict(loss_cls=1.0, loss_dist=2.0),
    'rrd': dict(loss_cls=1.0, loss_rrd=1.0),
    'rrd-kd': dict(loss_cls=1.0, loss_kd=1.0, loss_rrd=1.0),
    'serkd': dict(loss_kd=1.0, loss_feat=1.0, loss_rd=0.5, loss_ra=1.0),
}
TAU = {'kd': 4.0, 'dist': 4.0, 'rrd-kd': 4.0, 'serkd': 1.0}


def build(pair, method):
    """Build the distiller of a pair, with a random teacher."""
    config = Config.fromfile(CRD / f'{pair}_{method}.py')
    config.model.teacher.update(checkpoint=None, allow_random_teacher=True)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    return model


@pytest.mark.parametrize('pair', PAIRS)
def test_configs_have_the_schedule_and_the_losses_of_the_benchmark(pair):
    student, teacher = pair.split('_')
    for method, expected in METHODS.items():
        config = Config.fromfile(CRD / f'{pair}_{method}.py')
        losses = {name: loss for name, loss in config.model.losses.items() if loss is not None}
        assert {name: loss.get('loss_weight', 1.0) for name, loss in losses.items()} == expected
        assert {loss.tau for loss in losses.values() if 'tau' in loss} == ({TAU[method]} if method in TAU else set())
        assert (config.model.student.model, config.model.teacher.model) == tuple(
            f'configs/crd/{name}.py' for name in (student, teacher)
        )
        for part in (config, Config.fromfile(CRD / f'{student}.py')):
            optimizer = part.optim_wrapper.optimizer
            rate = 0.01 if student == 'shufflenetv2' else 0.05
            assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ('SGD', rate, 0.9, 5e-4)
            assert (part.param_scheduler.milestones, part.param_scheduler.gamma) == ([150, 180, 210], 0.1)
            assert (part.train_cfg.max_epochs, part.train_dataloader.batch_size) == (240, 64)
            assert part.train_dataloader.dataset.type == 'CIFAR100'
            pipeline = [dict(transform) for transform in part.train_dataloader.dataset.pipeline]
            assert pipeline[0] == dict(type='RandomCrop', crop_size=32, padding=4)
            assert [transform['type'] for transform in pipeline[1:]] == ['RandomFlip', 'PackInputs']
            assert np.divide(part.data_preprocessor.mean, 255) == pytest.approx([0.5071, 0.4867, 0.4408])
            assert np.divide(part.data_preprocessor.std, 255) == pytest.approx([0.2675, 0.2565, 0.2761])


def test_kd_is_that_of_the_benchmark(monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    model = build('wrn-16-2_wrn-40-2', 'kd').train()
    losses = model(images(), labels(), mode='loss')
    with torch.no_grad():
        teacher = model.teacher(images())['logits'].tensor / 4
        student = model.head(model.extract_feat(images()))
    target = torch.cat([sample.gt_label for sample in labels()])
    torch.testing.assert_close(losses['loss_cls'], 0.1 * F.cross_entropy(student, target), rtol=1e-4, atol=0)
    divergence = F.kl_div((student / 4).log_softmax(1), teacher.softmax(1), reduction='batchmean')
    torch.testing.assert_close(losses['loss_kd'], 0.9 * 16 * divergence, rtol=1e-4, atol=0)


@pytest.mark.parametrize('pair', [pytest.param(pair, marks=pytest.mark.slow) for pair in PAIRS])
def test_serkd_reads_8x8_tokens_of_each_stage(pair, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    model = build(pair, 'serkd').eval()
    with torch.no_grad():
        student, teacher = model.extract_features(images(batch=1))
        tokens = model.distill.tokens(student, teacher)
    stages = ['stage2', 'stage3'] if pair.startswith('shuffle') else ['stage1', 'stage2', 'stage3']
    sizes = [16, 8] if pair.startswith('shuffle') else [32, 16, 8]
    for features in (student, teacher):
        assert [features[stage].tensor.shape[2] for stage in stages] == sizes
    for view, length in dict(tokens=64, superpixels=16).items():
        assert list(tokens[view]) == stages
        assert {side.shape[1] for both in tokens[view].values() for side in both} == {length}


def test_the_page_links_every_config():
    linked = {(CRD / target).resolve() for target in re.findall(r'\]\(([^)]*\.py)\)', PAGE)}
    assert linked == {path for path in CRD.rglob('*.py') if '_base_' not in path.parts}


def blocks(kind):
    """The blocks of code of the page, with each ``cd`` and path relative to the folder where they run."""
    return re.findall(rf'^```{kind}\n(.*?)^```', PAGE, re.DOTALL | re.MULTILINE)


def write_stl10(folder, images_of):
    """Write an archive of STL-10: pixels by column, and classes from 1."""
    folder.mkdir(parents=True)
    (folder / 'class_names.txt').write_text('airplane\nbird\ncar\n')
    for part, pictures in images_of.items():
        pictures.transpose(0, 3, 2, 1).tofile(folder / f'{part}_X.bin')
        (np.arange(len(pictures), dtype=np.uint8) % 3 + 1).tofile(folder / f'{part}_y.bin')


def write_tiny_imagenet(folder, images_of):
    """Write an archive of Tiny ImageNet: validation images in one folder, and their classes in a file."""
    for number, picture in enumerate(images_of['train']):
        label = f'n0{number % 3}'
        (folder / 'train' / label / 'images').mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / 'train' / label / 'images' / f'{label}_{number}.png'), picture[..., ::-1])
        (folder / 'train' / label / f'{label}_boxes.txt').write_text(f'{label}_{number}.png\t0\t0\t62\t62\n')
    lines = []
    (folder / 'val' / 'images').mkdir(parents=True)
    for number, picture in enumerate(images_of['test']):
        cv2.imwrite(str(folder / 'val' / 'images' / f'val_{number}.png'), picture[..., ::-1])
        lines.append(f'val_{number}.png\tn0{number % 3}\t0\t0\t62\t62\n')
    (folder / 'val' / 'val_annotations.txt').write_text(''.join(lines))


@pytest.mark.parametrize('name', ['stl10', 'tiny-imagenet'])
def test_transfer_reads_the_data_that_the_page_prepares(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = 96 if name == 'stl10' else 64
    pixels = np.random.default_rng(0).integers(0, 256, (10, size, size, 3), dtype=np.uint8)
    images_of = dict(train=pixels[:6], test=pixels[6:])
    if name == 'stl10':
        write_stl10(tmp_path / 'data' / 'stl10' / 'stl10_binary', images_of)
        (code,) = blocks('python')
        exec(code, {})
    else:
        write_tiny_imagenet(tmp_path / 'data' / 'tiny-imagenet-200', images_of)
        (code,) = [block for block in blocks('bash') if 'val_annotations' in block]
        subprocess.run(['bash', '-euo', 'pipefail', '-c', code], check=True, env=dict(os.environ))
    init_default_scope('mmpretrain')
    config = Config.fromfile(CRD / 'transfer' / f'wrn-16-2_{name}.py')
    resize = TRANSFORMS.build(config.resize)
    for loader, part in ((config.train_dataloader, 'train'), (config.val_dataloader, 'test')):
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == len(images_of[part])
        assert len(dataset.CLASSES) == 3
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            number = int(re.search(r'(\d+)\.png', info['img_path'])[1])
            assert info['gt_label'] == number % 3
            packed = dataset[index]['inputs']
            assert packed.shape == (3, 32, 32)
            if part == 'test':
                expected = resize(dict(img=np.ascontiguousarray(images_of[part][number][..., ::-1])))['img']
                assert np.array_equal(packed.numpy().transpose(1, 2, 0), expected)


def test_transfer_trains_the_classifier_alone(tmp_path):
    config = Config.fromfile(CRD / 'transfer' / 'wrn-16-2_tiny-imagenet.py')
    student = build_student(tmp_path / 'epoch_240.pth')
    config.model.backbone.init_cfg.checkpoint = str(tmp_path / 'epoch_240.pth')
    model = MODELS.build(config.model)
    model.init_weights()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sum(model(images(), labels(), mode='loss').values()).backward()
    optimizer.step()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, student[f'backbone.{name}']), name
    assert model.head.num_classes == config.data_preprocessor.num_classes == 200
    assert all(weight.grad.abs().max() > 0 for weight in model.head.parameters())


def build_student(path):
    """Save a student as a distillation does; return its weights."""
    student = MODELS.build(Config.fromfile(CRD / 'wrn-16-2.py').model)
    torch.save(dict(state_dict=student.state_dict()), path)
    return student.state_dict()
