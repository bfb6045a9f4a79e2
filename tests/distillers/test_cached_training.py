"""The config of a training from a cache, made from that of the training with its teacher."""

import pytest
import torch
from builders import NUM_CLASSES, PREPROCESSOR, STUDENT, training_config
from mmengine.config import Config
from mmpretrain.registry import MODELS

from serkd_mm.distillers.cache_sources import build_source
from serkd_mm.distillers.cached_training import cached_training_config, write_config
from serkd_mm.runner.view_checks import check_views

AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8)], probs=[0.5])


@pytest.fixture
def config(tmp_path):
    return training_config(tmp_path, tmp_path / 'work')


def from_cache(config):
    return cached_training_config(config, 'name', 'data/cache', 5, 3, dict(patches='backbone.layers[2]'))


def student_file(folder, preprocessor_inside):
    """Write the config file of a student with Mixup, and return its path."""
    model = dict(STUDENT, train_cfg=AUGMENTS)
    settings = dict(PREPROCESSOR, mean=[1.0, 2.0, 3.0])
    content = Config(dict(model=dict(model, data_preprocessor=settings) if preprocessor_inside else model))
    if not preprocessor_inside:
        content.data_preprocessor = settings
    content.dump(folder / 'student.py')
    return str(folder / 'student.py')


def test_only_what_a_cache_needs_is_changed(config):
    config.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=False, seed=4)
    before = config.to_dict()
    written = from_cache(config)
    assert config.to_dict() == before
    assert written.train_dataloader.pop('sampler') == dict(type='ViewSampler', shuffle=False, seed=4)
    views = dict(type='RepeatableViews', num_views=5, seed=3, augments=None, cache='data/cache')
    assert written.train_dataloader.pop('dataset') == dict(dataset=before['train_dataloader']['dataset'], **views)
    assert written.model.teacher.pop('cache') == 'data/cache'
    assert written.model.teacher.pop('taps') == dict(patches='backbone.layers[2]', logits='head')
    assert written.model.data_preprocessor == dict(type='ViewPreprocessor', **PREPROCESSOR)
    assert written.pop('work_dir') == 'work_dirs/name_cached'
    rest = written.to_dict()
    for name in ('model', 'train_dataloader', 'work_dir'):
        assert rest.pop(name, None) is not None or name == 'work_dir'
        before.pop(name)
    assert rest == before


@pytest.mark.parametrize('place', ['top', 'model', 'student'])
def test_preprocessor_is_replaced_where_it_is(place, config):
    del config.model['data_preprocessor']
    config.data_preprocessor = None
    owner = {'top': config, 'model': config.model, 'student': config.model.student.model}[place]
    owner['data_preprocessor'] = dict(PREPROCESSOR, type='ClsDataPreprocessor', batch_augments=AUGMENTS)
    written = from_cache(config)
    owner = {'top': written, 'model': written.model, 'student': written.model.student.model}[place]
    assert owner['data_preprocessor'] == dict(PREPROCESSOR, type='ViewPreprocessor', to_onehot=True)
    assert written.train_dataloader.dataset.augments == AUGMENTS
    check_views(written)


@pytest.mark.parametrize('preprocessor_inside', [False, True])
def test_augmentation_inside_the_file_of_a_student_is_taken_out(preprocessor_inside, config, tmp_path):
    del config.model['data_preprocessor']
    config.pop('data_preprocessor')
    config.model.student.model = student_file(tmp_path, preprocessor_inside)
    written = from_cache(config)
    assert 'train_cfg' not in written.model.student.model
    assert written.train_dataloader.dataset.augments == AUGMENTS
    check_views(written)
    student = MODELS.build(dict(written.model.student.model, data_preprocessor=preprocessor_of(written)))
    assert type(student.data_preprocessor).__name__ == 'ViewPreprocessor'
    assert student.data_preprocessor.mean.flatten().tolist() == [1.0, 2.0, 3.0]
    assert student.data_preprocessor.num_classes == NUM_CLASSES


def preprocessor_of(config):
    return config.model.student.model.get('data_preprocessor') or config.data_preprocessor


def test_written_file_is_the_config_without_the_password(config, tmp_path):
    config.model.teacher.checkpoint = 'https://mary:hush@example.org/teacher.pth?token=quiet'
    config.teacher_url = config.model.teacher.checkpoint
    written = from_cache(config)
    write_config(written, tmp_path / 'train.py', 'A comment')
    text = (tmp_path / 'train.py').read_text()
    assert text.startswith('# A comment\n')
    assert not any(secret in text for secret in ('mary', 'hush', 'quiet'))
    assert Config.fromfile(tmp_path / 'train.py').to_dict() == written.to_dict()
    assert config.model.teacher.checkpoint.startswith('https://mary')


def test_a_source_leaves_the_config_and_knows_the_taps(config):
    del config.model.teacher['taps']
    config.model.teacher.autocast_dtype = None
    before = config.to_dict()
    source = build_source('config.py', 'config', config, 'data/cache', 5, seed=3, amp=True)
    assert config.to_dict() == before
    assert source.taps == dict(logits='head', patches='backbone.layers[2]')
    assert source.cached.model.teacher.taps == source.taps
    assert source.cached.model.teacher.autocast_dtype == source.teacher['autocast_dtype'] == 'bfloat16'


def test_initial_weights_do_not_depend_on_the_teacher(config):
    states = []
    for depth in (3, 4):
        config.model.teacher.model.backbone.arch.num_layers = depth
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        model.init_weights()
        states.append(model.student.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
