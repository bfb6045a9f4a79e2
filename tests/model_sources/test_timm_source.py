"""Models of timm by name: what timm publishes about them, and weights in timm's own names."""

import copy
import sys

import pytest
import timm
import torch
from builders import PREPROCESSOR
from hugging_face import hub_cache, write_cache  # noqa: F401
from mmpretrain.registry import MODELS
from safetensors.torch import save_file

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.frozen_teacher import FrozenTeacher
from serkd_mm.distillers.input_statistics import InputStatistics
from serkd_mm.model_sources import HubFile, find_model

KEY = 'model.teacher.model'
# The mean, the standard deviation and the size (160) of this small ViT are not those of ImageNet.
NAME = 'test_vit'


@pytest.fixture(scope='module')
def net():
    """The model as timm builds it, with random weights."""
    torch.manual_seed(0)
    return timm.create_model(NAME).eval()


@pytest.fixture
def checkpoint(net, tmp_path):
    save_file(net.state_dict(), tmp_path / 'net.safetensors')
    return tmp_path / 'net.safetensors'


def teacher_of(model, checkpoint, size=64, load=True) -> FrozenTeacher:
    """Build a teacher for a student with images of a size, and load its weights by default."""
    taps = dict(patches='model.blocks[-1]', logits='model.head')
    statistics = InputStatistics.from_preprocessor(MODELS.build(dict(PREPROCESSOR, type='ClsDataPreprocessor')))
    config = dict(model=model, checkpoint=checkpoint if checkpoint is True else str(checkpoint), taps=taps)
    teacher = FrozenTeacher(config, set(taps), statistics, (3, size, size))
    if load:
        teacher.load()
    return teacher


def test_normalization_and_size_are_timm_s():
    source = find_model(f'timm:{NAME}.r160_in1k', KEY)
    assert source.image_size == (160, 160)
    assert source.data_preprocessor == dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
    assert find_model('timm:vit_small_patch14_dinov2', KEY).image_size == (518, 518)
    assert find_model(dict(type='TimmClassifier', model_name=NAME, num_classes=4, img_size=96), KEY).image_size == (96, 96)


@pytest.mark.parametrize('size', [160, 64], ids=['own size', "student's size"])
def test_the_teacher_s_logits_are_plain_timm_s(net, checkpoint, size):
    teacher = teacher_of(f'timm:{NAME}', checkpoint, size)
    pixels = torch.randint(0, 256, (2, 3, size, size)).float()
    mean, std = (torch.tensor(PREPROCESSOR[name]).view(3, 1, 1) for name in ('mean', 'std'))
    plain = timm.create_model(NAME, img_size=size, pretrained=True, pretrained_cfg_overlay=dict(state_dict=net.state_dict()))
    with torch.no_grad():
        expected = plain.eval()(pixels / 127.5 - 1)
    torch.testing.assert_close(teacher((pixels - mean) / std)['logits'].tensor, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('test_vti', "timm has no model of this name. Did you mean 'test_vit'"),
        ('test_vit.r160_in2k', "test_vit has no weights of this tag. Did you mean 'r160_in1k'"),
    ],
)
def test_near_misses_are_suggested(name, hint):
    with pytest.raises(ConfigError) as error:
        find_model(f'timm:{name}', KEY)
    assert f"{KEY}='timm:{name}': {hint}" in str(error.value)


def test_a_model_that_the_user_has_registered_in_timm(monkeypatch):
    registry = pytest.importorskip('timm.models._registry')
    monkeypatch.setitem(registry._model_entrypoints, 'own_net', lambda **settings: timm.create_model('test_resnet'))
    source = find_model(dict(type='TimmClassifier', model_name='own_net'), KEY)
    assert not source.has_preprocessor
    assert source.build(KEY).model.num_classes == 1000


def test_without_timm_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm.models', None)
    with pytest.raises(ConfigError, match=r"model='timm:test_vit' needs timm, .* pip install \"serkd-mm\[timm\]\""):
        find_model(f'timm:{NAME}', KEY)


def test_mmengine_would_replace_weights_that_timm_loads(net):
    config = dict(type='TimmClassifier', model_name=NAME, pretrained=True)
    config['pretrained_cfg_overlay'] = dict(state_dict=net.state_dict())
    model = MODELS.build(copy.deepcopy(config))
    assert torch.equal(model.model.head.weight, net.head.weight)
    model.init_weights()
    assert not torch.equal(model.model.blocks[0].mlp.fc1.weight, net.blocks[0].mlp.fc1.weight)
    with pytest.raises(ConfigError, match=r'model\.pretrained=True: .* set model\.teacher\.checkpoint=True'):
        find_model(config, KEY)


def test_weights_that_timm_would_load_from_a_file_belong_to_checkpoint():
    config = dict(type='TimmClassifier', model_name=NAME, checkpoint_path='net.pth')
    with pytest.raises(ConfigError, match=r"model\.checkpoint_path: .* Set model\.teacher\.checkpoint='net.pth' instead"):
        find_model(config, KEY)


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


WRONG = {
    'missing': (lambda weights: without(weights, 'norm.bias'), NAME, 'Missing key.* "norm.bias"'),
    'unexpected': (lambda weights: {**weights, 'extra': torch.ones(3)}, NAME, 'Unexpected key.* "extra"'),
    'of another model': (lambda weights: timm.create_model('test_resnet').state_dict(), NAME, 'Missing key'),
    'of other classes': (
        lambda weights: {**weights, 'head.weight': torch.ones(9, 64)},
        NAME,
        'size mismatch for head.weight',
    ),
    'twice': (lambda weights: dict(model=weights, model_ema=weights), NAME, 'several sets of weights: model, model_ema'),
}


@pytest.mark.parametrize('case', WRONG)
def test_weights_that_do_not_match_are_refused(net, case, tmp_path):
    change, name, message = WRONG[case]
    torch.save(change(dict(net.state_dict())), tmp_path / 'net.pth')
    with pytest.raises(ConfigError, match=rf"model\.teacher\.checkpoint='.*net.pth'.*{message}"):
        teacher_of(f'timm:{name}', tmp_path / 'net.pth')


def test_the_publisher_s_names_are_converted_and_what_is_left_out_is_logged(logged, tmp_path):
    """DINOv2's own file: position embeddings for 518 pixels, and a mask token that timm has not."""
    own = timm.create_model('vit_small_patch14_dinov2', depth=1, embed_dim=24, num_heads=2)
    torch.save({**own.state_dict(), 'mask_token': torch.full((1, 24), 7.0)}, tmp_path / 'dinov2.pth')
    model = dict(type='TimmClassifier', model_name='vit_small_patch14_dinov2', depth=1, embed_dim=24, num_heads=2)
    teacher = teacher_of(model, tmp_path / 'dinov2.pth', size=56)
    assert teacher.model.model.pos_embed.shape == (1, 1 + 4 * 4, 24)
    assert torch.equal(teacher.model.model.blocks[0].mlp.fc1.weight, own.blocks[0].mlp.fc1.weight)
    assert any('changed or left out by the conversion: mask_token' in message for message in logged)


TINY = dict(type='TimmClassifier', depth=1, embed_dim=24, num_heads=2)
CONVNEXT = dict(type='TimmClassifier', model_name='convnextv2_atto.fcmae', depths=[1] * 4, dims=[8] * 4)
DLA = dict(type='TimmClassifier', model_name='dla46_c')


def test_weights_that_a_builder_of_timm_would_leave_random_are_refused():
    """timm loads each file into a model of SigLIP with average pooling, also one without some of the layers."""
    source = find_model(dict(TINY, model_name='vit_base_patch16_siglip_gap_224'), KEY)
    model = source.build(KEY)
    weights = {name: value for name, value in model.model.state_dict().items() if '.mlp.' not in name}
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r'does not match timm:.*missing \(2\): .*mlp\.fc1\.weight'):
        source.convert(weights, model, 'the file')
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ('config', 'without', 'more', 'message'),
    [
        (CONVNEXT, 'head.norm.', None, 'the file has no head.norm.weight, head.norm.bias, which keep their initial values'),
        (DLA, None, 'level3.project.0.weight', 'left out by the conversion: level3.project.0.weight'),
    ],
    ids=['without the last norm', 'with layers that are not used'],
)
def test_what_timm_s_own_files_lack_or_have_in_addition_is_logged(config, without, more, message, logged):
    source = find_model(config, KEY)
    model = source.build(KEY)
    trained = {name: torch.rand_like(value.float()).to(value) for name, value in model.model.state_dict().items()}
    weights = {name: value for name, value in trained.items() if without is None or not name.startswith(without)}
    if more is not None:
        weights[more] = torch.full((3,), 7.0)
    converted = source.convert(weights, model, 'the file')
    assert all(torch.equal(converted[name], trained[name]) for name in converted if name in weights)
    assert converted.keys() == trained.keys()
    assert any(message in text for text in logged)


def test_a_model_without_a_head_takes_the_file_of_one_with_it(net, checkpoint, logged):
    teacher = teacher_of(dict(type='TimmClassifier', model_name=NAME, num_classes=0), checkpoint, size=160)
    assert torch.equal(teacher.model.model.norm.bias, net.norm.bias)
    assert any('no class head; not loaded: head.bias, head.weight' in message for message in logged)


def test_half_precision_and_nan_are_treated_as_for_any_checkpoint(net, tmp_path):
    save_file({name: value.half() for name, value in net.state_dict().items()}, tmp_path / 'half.safetensors')
    teacher = teacher_of(f'timm:{NAME}', tmp_path / 'half.safetensors', size=160)
    assert torch.equal(teacher.model.model.head.weight, net.head.weight.half().float())
    save_file({**net.state_dict(), 'norm.bias': torch.full((64,), float('nan'))}, tmp_path / 'nan.safetensors')
    with pytest.raises(ConfigError, match=r'NaN or infinite: norm\.bias'):
        teacher_of(f'timm:{NAME}', tmp_path / 'nan.safetensors', size=160)
    damaged = tmp_path / 'cut.safetensors'
    damaged.write_bytes((tmp_path / 'half.safetensors').read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r'cut\.safetensors.* cannot be read; is it complete\?'):
        teacher_of(f'timm:{NAME}', damaged, size=160)


def test_checkpoint_true_takes_the_file_that_timm_names(net, tmp_path, hub_cache):  # noqa: F811
    (tmp_path / 'repository').mkdir()
    save_file(net.state_dict(), tmp_path / 'repository' / 'model.safetensors')
    with pytest.raises(ConfigError, match=r"True.*: timm has no weights for 'timm:nf_resnet26'"):
        find_model('timm:nf_resnet26', KEY).published_weights('model.teacher.checkpoint')
    source = find_model('timm:vit_small_patch14_dinov2', KEY)
    names = ('model.safetensors', 'pytorch_model.bin')
    assert source.published_weights('key') == HubFile('timm/vit_small_patch14_dinov2.lvd142m', names)
    release = find_model('timm:gcvit_tiny', KEY).published_weights('key')
    assert (release.is_url, release.published_hash) == (True, release.location[-12:-4])
    missing = teacher_of(f'timm:{NAME}', True, load=False)
    with pytest.raises(ConfigError, match=r"='timm/test_vit\.r160_in1k/model\.safetensors' could not be fetched: .*copy"):
        missing.load()
    write_cache(hub_cache, 'timm/test_vit.r160_in1k', tmp_path / 'repository')
    missing.load()
    assert torch.equal(missing.model.model.head.weight, net.head.weight)
