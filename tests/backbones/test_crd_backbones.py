"""The networks of the CRD benchmark: parameters, outputs, freezing, and the conversion of its checkpoints."""

import importlib.util
import re

import pytest
import torch
from builders import CONFIGS, REPOSITORY, images, run_forked
from crd_networks import Weights, resnet, shufflenet_v2, vgg, wide_resnet
from mmengine.config import Config
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError

# The forward of a network, and the number of its parameters in the benchmark's own code.
NETWORKS = {
    'resnet8x4': (lambda net, x: resnet(net, x, 8), 1_233_540),
    'resnet32x4': (lambda net, x: resnet(net, x, 32), 7_433_860),
    'wrn-16-2': (lambda net, x: wide_resnet(net, x, 16), 703_284),
    'wrn-40-2': (lambda net, x: wide_resnet(net, x, 40), 2_255_156),
    'vgg8': (lambda net, x: vgg(net, x, 1), 3_965_028),
    'vgg13': (lambda net, x: vgg(net, x, 2), 9_462_180),
    'shufflenetv2': (shufflenet_v2, 1_355_528),
}
FAST = ('resnet8x4', 'wrn-16-2')
EACH = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NETWORKS]
CONVERTER = 'tools/model_converters/crd.py'


def write_checkpoint(path, forward):
    """Write a checkpoint as the benchmark does; return the logits of two images."""
    net = Weights()
    logits = forward(net, images(batch=2, size=16))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.05, momentum=0.9)
    torch.save(dict(epoch=240, model=dict(net), accuracy=torch.tensor(72.5), optimizer=optimizer.state_dict()), path)
    return logits


@pytest.mark.parametrize('name', EACH)
def test_converted_checkpoint_has_the_outputs_of_the_benchmark(name, tmp_path):
    forward, num_parameters = NETWORKS[name]
    expected = write_checkpoint(tmp_path / 'ckpt_epoch_240.pth', forward)
    printed = run_forked(CONVERTER, tmp_path / 'ckpt_epoch_240.pth', tmp_path / 'new' / 'net.pth')
    config = Config.fromfile(CONFIGS / 'crd' / f'{name}.py').model
    settings = re.fullmatch(rf'Wrote {tmp_path}/new/net.pth: backbone=dict\((.*)\)\n', printed)[1]
    assert dict(config.backbone).items() <= eval(f'dict({settings})').items()
    model = MODELS.build(config).eval()
    assert sum(weight.numel() for weight in model.parameters()) == num_parameters
    model.load_state_dict(torch.load(tmp_path / 'new' / 'net.pth', weights_only=True)['state_dict'])
    with torch.no_grad():
        logits = model.head(model.extract_feat(images(batch=2, size=16)))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_converter_refuses_other_weights_in_one_line(tmp_path):
    file = tmp_path / 'net.pth'
    torch.save(dict(model={'stem.weight': torch.ones(1)}), file)
    printed = run_forked(CONVERTER, file, tmp_path / 'new.pth', succeed=False)
    assert printed == f'error: {file} has no ResNet, WRN, VGG or ShuffleNetV2 of RepDistiller, but stem.weight\n'
    assert not (tmp_path / 'new.pth').exists()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'layer2.0.bn1.bias': None}, 'base_channels=64): backbone.layer2.0.bn1.bias differ. '),
        ({'layer1.0.conv3.weight': torch.ones(1)}, 'layer1.0.conv3.weight has the shape (1,) in the file and None in'),
        ({'fc.bias': torch.ones(3)}, 'head.fc.bias has the shape (3,) in the file and (100,) in the network'),
        ({'fc.weight': None}, 'FILE has no linear classifier of a ResNet of basic blocks, WRN'),
        ({'fc.weight': torch.ones(100, 77)}, 'has the shape (100, 77) in the file and (100, 256) in the network'),
        ({'conv1.weight': None}, "FILE is not a network of RepDistiller: 'conv1.weight'"),
        ({'conv1.weight': torch.tensor(1.0)}, 'FILE is not a network of RepDistiller: '),
        ({'layer1.9.conv1.weight': torch.ones(1), 'layer1.8.conv1.weight': torch.ones(1)}, 'differ'),
        ({f'layer1.{block}.conv1.weight': torch.ones(1) for block in range(1, 8)}, 'depth 50'),
    ],
)
def test_converter_is_strict(changes, message):
    net = Weights()
    resnet(net, images(batch=1, size=16), 8)
    net.update(changes)
    spec = importlib.util.spec_from_file_location('crd', REPOSITORY / CONVERTER)
    converter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    with pytest.raises(ConfigError, match=re.escape(message)):
        converter.convert({name: value for name, value in net.items() if value is not None}, 'FILE')


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 3])
def test_frozen_stages_of_a_wide_resnet_do_not_change(frozen_stages):
    torch.manual_seed(0)
    backbone = MODELS.build(dict(type='CRDWideResNet', depth=10, frozen_stages=frozen_stages))
    backbone.init_weights()
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    frozen = ('conv1', *(f'layer{stage}' for stage in range(1, frozen_stages + 1)))[: 1 + max(frozen_stages, -1)]
    frozen += ('norm',) if frozen_stages == 3 else ()
    optimizer = torch.optim.SGD([weight for weight in backbone.parameters() if weight.requires_grad] or [torch.ones(1)], 0.1)
    (output,) = backbone(images(size=16))
    assert output.shape == (4, 64, 4, 4)
    if frozen_stages < 3:
        output.square().mean().backward()
        optimizer.step()
    for name, value in backbone.state_dict().items():
        kept = name.split('.')[0] in frozen
        assert torch.equal(value, before[name]) == kept, name


def test_norm_eval_keeps_the_statistics_and_trains_the_weights():
    backbone = MODELS.build(dict(type='CRDWideResNet', depth=10, norm_eval=True)).train()
    (output,) = backbone(images(size=16))
    output.mean().backward()
    assert all(weight.grad is not None for weight in backbone.parameters())
    assert all(int(value) == 0 for name, value in backbone.state_dict().items() if name.endswith('num_batches_tracked'))


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='CRDWideResNet', depth=17), 'depth must be 6n + 4'),
        (dict(type='CRDWideResNet', depth=4), 'depth must be 6n + 4'),
        (dict(type='CRDWideResNet', depth=16, frozen_stages=4), 'frozen_stages must be from -1 to 3'),
        (dict(type='CRDVGG', depth=8, num_pools=5), 'num_pools must be from 0 to 4'),
    ],
)
def test_wrong_settings_are_reported(config, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MODELS.build(config)


def test_vgg_pools_as_often_as_it_is_set_to():
    for num_pools, size in {2: 8, 4: 2}.items():
        backbone = MODELS.build(dict(type='CRDVGG', depth=8, num_pools=num_pools))
        assert backbone(images(batch=2))[0].shape == (2, 512, size, size)


def test_weights_start_as_in_the_benchmark():
    backbone = MODELS.build(dict(type='CRDShuffleNetV2'))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items()), "those of torch's layers"
    for name in ('vgg8', 'vgg13'):
        head = MODELS.build(Config.fromfile(CONFIGS / 'crd' / f'{name}.py').model.head)
        head.init_weights()
        assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not head.fc.bias.any()
