"""Models of Hugging Face by folder and by name: what they are built as, and their weights."""

import json
import re
import sys

import pytest
import torch
from builders import PREPROCESSOR
from hugging_face import MEAN, STD, TINY, hub_cache, write_cache, write_model  # noqa: F401
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.frozen_teacher import FrozenTeacher
from serkd_mm.distillers.input_statistics import InputStatistics
from serkd_mm.distillers.model_parts import num_classes_of, num_extra_tokens_of, pooled_features
from serkd_mm.fileio.safe_loading import read_checkpoint
from serkd_mm.model_sources import find_model

# Importing transformers takes seconds.
pytestmark = pytest.mark.slow
transformers = pytest.importorskip('transformers')
KEY = 'model.teacher.model'
TEXT = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)


def two_towers(model: str, config: str, **settings):
    config = getattr(transformers, config)(vision_config=TINY, text_config=TEXT, **settings)
    return getattr(transformers, model)(config)


def single(name: str, **settings):
    model, _, kind = name.partition(' ')
    config = getattr(transformers, f'{model}Config')(**{**TINY, **settings})
    return getattr(transformers, f'{model}{kind or "Model"}')(config)


# What is saved, the class that it is built as, its classes and its tokens in front of the patches.
CASES = {
    'no head': (lambda: single('Dinov2'), 'Dinov2Model', 0, 1),
    'registers': (lambda: single('Dinov2WithRegisters', num_register_tokens=4), 'Dinov2WithRegistersModel', 0, 5),
    'rotary': (lambda: single('DINOv3ViT', num_register_tokens=4), 'DINOv3ViTModel', 0, 5),
    'pooling that is left out': (lambda: single('ViT'), 'ViTModel', 0, 1),
    'class head': (lambda: single('Dinov2 ForImageClassification', num_labels=7), 'Dinov2ForImageClassification', 7, 1),
    'distillation token': (
        lambda: single('DeiT ForImageClassificationWithTeacher', num_labels=7),
        'DeiTForImageClassificationWithTeacher',
        7,
        2,
    ),
    'vision tower': (lambda: two_towers('CLIPModel', 'CLIPConfig'), 'CLIPVisionModel', 0, 1),
    'vision tower without tokens': (lambda: two_towers('SiglipModel', 'SiglipConfig'), 'SiglipVisionModel', 0, 0),
    'vision tower with a head': (
        lambda: two_towers('SiglipForImageClassification', 'SiglipConfig', num_labels=7),
        'SiglipForImageClassification',
        7,
        0,
    ),
    'CNN': (
        lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic', num_labels=7
            )
        ),
        'ResNetForImageClassification',
        7,
        0,
    ),
}


def output_of(net, images) -> torch.Tensor:
    """What a net of transformers returns for the whole image."""
    net = net if not hasattr(net, 'text_model') else net.vision_model
    size = {'interpolate_pos_encoding': True} if 'Siglip' in type(net).__name__ or 'DeiT' in type(net).__name__ else {}
    output = net.eval()(images, **size)
    if hasattr(output, 'logits'):
        return output.logits
    # Without its pooling layer, a ViT is pooled to the class token.
    return output.last_hidden_state[:, 0] if type(net).__name__ == 'ViTModel' else output.pooler_output.flatten(1)


@pytest.mark.parametrize('case', CASES)
def test_a_model_is_built_as_it_was_published_and_gets_all_its_weights(case, tmp_path):
    write, kind, num_classes, num_extra_tokens = CASES[case]
    torch.manual_seed(1)
    net = write()
    source = find_model(f'hf:{write_model(tmp_path, net)}', KEY)
    assert source.image_size == (56, 56)
    assert source.data_preprocessor.mean == pytest.approx([255 * value for value in MEAN])
    assert source.data_preprocessor.std == pytest.approx([255 * value for value in STD])
    statistics = InputStatistics.from_preprocessor(MODELS.build(dict(source.data_preprocessor, type='ClsDataPreprocessor')))
    taps = dict(any='logits') if num_classes else dict(any='model')
    config = dict(model=f'hf:{tmp_path}', checkpoint=True, taps=taps)
    teacher = FrozenTeacher(config, set(taps), statistics, (3, 56, 56))
    teacher.load()
    assert type(teacher.model.model).__name__ == kind
    assert (num_classes_of(teacher.model), num_extra_tokens_of(teacher.model)) == (num_classes, num_extra_tokens)
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        torch.testing.assert_close(teacher.model(images), output_of(net, images), atol=1e-5, rtol=1e-4)
        if num_classes:
            assert torch.equal(teacher(images)['any'].tensor, teacher.model(images))
        assert pooled_features(teacher.model, images).ndim == 2
        teacher.model(torch.randn(2, 3, 84, 84))  # Positions are resized.


def test_several_class_tokens_and_two_kinds_of_class_heads(tmp_path):
    if hasattr(transformers, 'PixioModel'):  # Newer than the oldest release of transformers that is supported.
        folder = write_model(tmp_path / 'pixio', single('Pixio', n_cls_tokens=8, mlp_ratio=2))
        assert num_extra_tokens_of(find_model(f'hf:{folder}', KEY).build(KEY)) == 8
    folder = write_model(tmp_path / 'aimv2', single('Aimv2Vision'))  # Its token is one of the pooling head.
    assert num_extra_tokens_of(find_model(f'hf:{folder}', KEY).build(KEY)) == 0
    folder = write_model(tmp_path / 'deit', single('DeiT'))
    config = dict(type='HuggingFaceModel', model_name=str(folder), num_labels=3)
    assert type(find_model(config, KEY).build(KEY).model).__name__ == 'DeiTForImageClassification'


def test_a_name_of_the_hub_is_read_from_its_cache(tmp_path, hub_cache, logged):  # noqa: F811
    torch.manual_seed(1)
    net = single('Dinov2 ForImageClassification', num_labels=7)
    own = write_cache(hub_cache, 'facebook/tiny', write_model(tmp_path / 'folder', net))
    taps = dict(logits='logits')
    statistics = InputStatistics.from_preprocessor(MODELS.build(dict(PREPROCESSOR, type='ClsDataPreprocessor')))
    config = dict(model='hf:facebook/tiny', checkpoint=True, taps=taps)
    teacher = FrozenTeacher(config, set(taps), statistics, (3, 64, 64))
    teacher.load()
    assert torch.equal(teacher.model.model.classifier.weight, net.classifier.weight)
    assert teacher.input_size == (70, 70)
    assert any("input_size: 70x70, the student's is 64x64 (its own is 56x56" in message for message in logged)
    # A damaged file in the cache is found by its name, the SHA-256; a missing one by the message.
    (blob,) = [file for file in (own / 'blobs').iterdir() if len(file.name) == 64]
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    damaged = FrozenTeacher(config, set(taps), statistics, (3, 64, 64))
    with pytest.raises(ConfigError, match=f"checkpoint='facebook/tiny/model.safetensors' .*{blob.name} is damaged"):
        damaged.load()
    next(own.glob('snapshots/*/model.safetensors')).unlink()
    with pytest.raises(ConfigError, match=r'HF_HUB_OFFLINE is set.* copy the cached folder to .*models--facebook--tiny'):
        damaged.load()


PROCESSORS = {
    'written by transformers': lambda: transformers.ViTImageProcessor(image_mean=MEAN, image_std=STD).to_dict(),
    'defaults left out': lambda: dict(image_processor_type='CLIPImageProcessor', size=224),
    'channels in the order BGR': lambda: transformers.MobileViTImageProcessor().to_dict(),
    'older name, BGR': lambda: dict(feature_extractor_type='MobileViTFeatureExtractor', do_flip_channel_order=True),
    'normalized twice': lambda: transformers.EfficientNetImageProcessor(image_mean=MEAN, image_std=STD).to_dict(),
    'from -1': lambda: transformers.EfficientNetImageProcessor(
        rescale_factor=1 / 127.5, rescale_offset=True, include_top=False, image_mean=MEAN, image_std=STD
    ).to_dict(),
}


@pytest.mark.parametrize('case', PROCESSORS)
def test_images_are_normalized_as_the_image_processor_does(case, tmp_path):
    content = PROCESSORS[case]()
    folder = write_model(tmp_path, single('Dinov2'))
    (folder / 'preprocessor_config.json').write_text(json.dumps(content, default=str))
    name = (content.get('image_processor_type') or content['feature_extractor_type']).replace(
        'FeatureExtractor', 'ImageProcessor'
    )
    own = getattr(transformers, name)(**{key: value for key, value in content.items() if not key.endswith('_type')})
    picture = torch.randint(0, 256, (3, 56, 56), dtype=torch.uint8)
    expected = own(picture, do_resize=False, do_center_crop=False, return_tensors='pt')['pixel_values']
    preprocessor = MODELS.build(dict(find_model(f'hf:{folder}', KEY).data_preprocessor, type='ClsDataPreprocessor'))
    found = preprocessor(dict(inputs=[picture.flip(0)], data_samples=None))['inputs']  # mmpretrain reads BGR.
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_an_unknown_normalization_is_reported(tmp_path):
    folder = write_model(tmp_path, single('Dinov2'))
    (folder / 'preprocessor_config.json').write_text(json.dumps(dict(image_processor_type='NewImageProcessor', size=56)))
    with pytest.raises(ConfigError, match=r'has no image_mean, .* dict of type HuggingFaceModel with a data_preprocessor'):
        find_model(f'hf:{folder}', KEY)


def test_models_that_cannot_be_found_or_built(tmp_path, hub_cache, monkeypatch):  # noqa: F811
    def message(name, **settings):
        with pytest.raises(ConfigError) as error:
            find_model(name, KEY).build(KEY, **settings)
        return str(error.value)

    folder = write_model(tmp_path / 'dinov2', single('Dinov2'))
    assert f"Did you mean '{folder}'" in message(f'hf:{folder}s')
    assert re.search('facebook/tiny/config.json: .*HF_HUB_OFFLINE', message('hf:facebook/tiny'))
    masked = write_model(tmp_path / 'mae', transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**TINY)))
    assert "no model of type 'vit_mae' that returns features of whole images" in message(f'hf:{masked}')
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**config, 'model_type': 'newer'}))
    assert 'is of no model that transformers can build' in message(f'hf:{folder}')
    (folder / 'preprocessor_config.json').unlink()
    (folder / 'config.json').write_text(json.dumps(config))
    assert 'preprocessor_config.json: there is no such file; save the model' in message(f'hf:{folder}')
    own = dict(type='HuggingFaceModel', model_name=str(folder), num_labels=3, data_preprocessor=dict(PREPROCESSOR))
    assert num_classes_of(find_model(own, KEY).build(KEY)) == 3
    pretrained = dict(type='HuggingFaceClassifier', model_name=str(folder), pretrained=True)
    assert 'Leave it out, and set model.teacher.checkpoint=True' in message(pretrained)
    monkeypatch.setitem(sys.modules, 'transformers', None)
    assert re.search(r'needs transformers, .*pip install "serkd-mm\[hf\]"', message(f'hf:{masked}'))


def test_weights_that_do_not_match_are_refused_and_older_names_are_converted(tmp_path):
    net = single('ViT ForImageClassification', num_labels=7)
    folder = write_model(tmp_path / 'vit', net)
    source = find_model(f'hf:{folder}', KEY)
    weights = dict(net.state_dict())

    def converted(state_dict):
        return source.convert(state_dict, source.build(KEY), 'the file')

    older = read_checkpoint(folder / 'model.safetensors', 'the file')
    assert older.keys() != weights.keys()  # transformers writes the names of its earlier versions.
    for name, value in converted(older).items():
        assert torch.equal(value, weights[name]), name
    for changed, message in (
        ({name: weights[name] for name in list(weights)[1:]}, rf'missing \(1\): {next(iter(weights))}'),
        ({**weights, 'vit.extra': torch.ones(2)}, r'unexpected \(1\): vit.extra'),
        ({**weights, 'classifier.bias': torch.ones(9)}, r'of another shape \(1\): classifier.bias'),
    ):
        with pytest.raises(ConfigError, match=f'the file does not match hf:.*{message}'):
            converted(changed)
