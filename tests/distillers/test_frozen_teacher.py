"""The teacher's weights and its input."""

import copy
import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
from builders import PREPROCESSOR, TEACHER, Command, build_distiller, cnn_distiller_config, distiller_config, images, labels
from mmengine.logging import MMLogger
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.utils import digit_version
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.teacher_weights import fetch_on_all_ranks
from serkd_mm.model_sources.weights_file import WeightsFile


@pytest.fixture
def weights():
    torch.manual_seed(7)
    return MODELS.build(copy.deepcopy(TEACHER)).state_dict()


@pytest.fixture
def checkpoint(weights, tmp_path):
    """Save a teacher's checkpoint as mmengine does."""
    path = tmp_path / 'teacher.pth'
    torch.save(dict(meta=dict(epoch=1), state_dict=weights), path)
    return path


def from_checkpoint(path, **changes):
    return build_distiller(teacher__checkpoint=str(path), teacher__allow_random_teacher=False, **changes)


def save(tmp_path, content):
    path = tmp_path / 'other.pth'
    torch.save(content, path)
    return path


def test_weights_are_loaded_when_training_starts_and_not_before(checkpoint, weights):
    torch.manual_seed(0)
    config = distiller_config(teacher__checkpoint=str(checkpoint), teacher__allow_random_teacher=False)
    model = MODELS.build(config)
    assert not torch.equal(model.teacher.model.head.fc.weight, weights['head.fc.weight'])
    model.init_weights()
    loaded = model.teacher.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


@pytest.mark.parametrize('training', [True, False])
def test_a_step_without_init_weights_loads_them_too(checkpoint, weights, training):
    config = distiller_config(teacher__checkpoint=str(checkpoint), teacher__allow_random_teacher=False)
    model = MODELS.build(config).train(training)
    model(images(), labels(), mode='loss')
    assert torch.equal(model.teacher.model.head.fc.weight, weights['head.fc.weight'])


def test_bare_and_wrapped_state_dicts_and_distilled_students_load(tmp_path, weights):
    wrapped = {f'module.{name}': value for name, value in weights.items()}
    for content in (weights, wrapped, dict(model=weights), dict(weights, **{'distill.losses.x.weight': torch.ones(1)})):
        model = from_checkpoint(save(tmp_path, content))
        assert torch.equal(model.teacher.model.head.fc.weight, weights['head.fc.weight'])


def test_a_url_is_fetched_once_when_training_starts(checkpoint, weights, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    url = checkpoint.as_uri()  # file:// takes the same path as https://, without a network
    config = distiller_config(teacher__checkpoint=url, teacher__allow_random_teacher=False)
    model = MODELS.build(config)
    assert not (tmp_path / 'cache').exists()
    model.init_weights()
    (cached,) = (tmp_path / 'cache' / 'hub' / 'checkpoints').iterdir()
    assert re.fullmatch(r'teacher-[0-9a-f]{8}\.pth', cached.name)
    assert torch.equal(model.teacher.model.head.fc.weight, weights['head.fc.weight'])
    checkpoint.unlink()
    assert torch.equal(from_checkpoint(url).teacher.model.head.fc.weight, weights['head.fc.weight'])


def test_a_url_that_cannot_be_fetched_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    with pytest.raises(ConfigError, match=r'model\.teacher\.checkpoint=.*could not be fetched'):
        from_checkpoint((tmp_path / 'missing.pth').as_uri())


@pytest.mark.parametrize('source', ['nothing', 'a missing file', 'a missing url'])
def test_a_random_teacher_must_be_allowed_and_logs_a_warning(source, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    missing = tmp_path / 'missing.pth'
    checkpoint = {'nothing': None, 'a missing file': str(missing), 'a missing url': missing.as_uri()}[source]
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        build_distiller(teacher__checkpoint=checkpoint)
    finally:
        logger.removeHandler(handler)
    assert [record.levelname for record in records if 'RANDOM teacher' in record.getMessage()] == ['WARNING']
    with pytest.raises(ConfigError, match=r'model\.teacher\.checkpoint'):
        build_distiller(teacher__checkpoint=checkpoint, teacher__allow_random_teacher=False)


def test_checkpoint_true_means_the_zoo_s_weights():
    model = MODELS.build(
        distiller_config(
            student__model='deit-tiny-distilled_3rdparty_in1k',
            teacher__model='vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k',
            teacher__checkpoint=True,
            data_preprocessor=None,
            input_size=(3, 64, 64),
        )
    )
    weights = model.teacher.config.weights
    assert weights.location.startswith('https://')
    assert weights.location.endswith(f'-{weights.published_hash}.pth')


@pytest.mark.skipif(digit_version(torch.__version__) < digit_version('2.6'), reason='older torch cannot allow classes')
def test_a_checkpoint_with_mmengine_s_logged_history_loads(tmp_path, weights):
    content = dict(state_dict=weights, message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1]))))
    model = from_checkpoint(save(tmp_path, content))
    assert torch.equal(model.teacher.model.head.fc.weight, weights['head.fc.weight'])


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda weights: {k: v for k, v in weights.items() if k != 'head.fc.bias'}, r'Missing \(1\): head\.fc\.bias'),
        (lambda weights: dict(weights, extra=torch.ones(1)), r'Unexpected \(1\): extra'),
        (lambda weights: {f'model.{k}': v for k, v in weights.items()}, r'Missing .* Unexpected'),
        (lambda weights: dict(weights, **{'head.fc.bias': torch.ones(9)}), 'another architecture'),
        (lambda weights: dict(meta={}), 'holds no state_dict'),
        (lambda weights: [1, 2], 'holds no state_dict'),
    ],
)
def test_a_checkpoint_that_does_not_match_is_refused(tmp_path, weights, damage, message):
    with pytest.raises(ConfigError, match=message) as error:
        from_checkpoint(save(tmp_path, damage(weights)))
    assert 'model.teacher.checkpoint' in str(error.value)


def with_value(weights, name, value, dtype=torch.float32):
    changed = weights[name].to(dtype, copy=True)
    changed.view(-1)[3] = value
    return dict(weights, **{name: changed})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: with_value(w, 'head.fc.weight', float('nan')), r'NaN or infinite: head\.fc\.weight\.'),
        (lambda w: with_value(w, 'backbone.pos_embed', float('inf')), r'NaN or infinite: backbone\.pos_embed\.'),
        (lambda w: with_value(w, 'head.fc.weight', 1e300, torch.float64), r'NaN or infinite: head\.fc\.weight\.'),
        (lambda w: with_value(w, 'head.fc.weight', float('inf'), torch.float16), r'NaN or infinite: head\.fc\.weight\.'),
        (lambda w: dict(w, **{'head.fc.weight': w['head.fc.weight'].to(torch.int8)}), r'head\.fc\.weight \(int8\)'),
        (lambda w: dict(w, **{'head.fc.weight': w['head.fc.weight'] > 0}), r'head\.fc\.weight \(bool\)'),
        (lambda w: dict(w, **{'head.fc.weight': w['head.fc.weight'] + 0j}), r'head\.fc\.weight \(complex64\)'),
        (lambda w: dict(w, **{'head.fc.weight': w['head.fc.weight'].to_sparse()}), r'fc\.weight \(float32, sparse_coo\)'),
        (lambda w: dict(w, **{'head.fc.weight': w['head.fc.weight'].to('meta')}), r'fc\.weight \(float32, without data\)'),
        (
            lambda w: dict(w, **{'module.head.fc.bias': w['head.fc.bias'] + 1}),
            r'with and without the prefix "module\.": module\.head\.fc\.bias\.',
        ),
        (lambda w: {3: torch.ones(1)}, 'holds no state_dict'),
    ],
)
def test_weights_that_no_trained_model_has_are_refused_by_name(tmp_path, weights, change, message):
    with pytest.raises(ConfigError, match=rf'^model\.teacher\.checkpoint=.*{message}') as error:
        from_checkpoint(save(tmp_path, change(weights)))
    assert 'backbone.cls_token' not in str(error.value)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stored_in_another_precision_load(tmp_path, weights, dtype):
    model = from_checkpoint(save(tmp_path, {name: value.to(dtype) for name, value in weights.items()}))
    loaded = model.teacher.model.head.fc.weight
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded, weights['head.fc.weight'].to(dtype).float(), rtol=0, atol=0)


def test_buffers_of_batch_norm_load_and_negative_variances_are_refused(tmp_path):
    weights = build_distiller(cnn_distiller_config).teacher.model.state_dict()
    assert any(value.dtype == torch.int64 for value in weights.values())
    settings = dict(config=cnn_distiller_config, teacher__allow_random_teacher=False)
    build_distiller(**settings, teacher__checkpoint=str(save(tmp_path, weights)))
    name = next(name for name in weights if name.endswith('running_var'))
    with pytest.raises(ConfigError, match=f'negative variances: {re.escape(name)}'):
        build_distiller(**settings, teacher__checkpoint=str(save(tmp_path, with_value(weights, name, -1.0))))


def test_checkpoint_true_needs_a_name_of_the_zoo():
    message = r"model\.teacher\.model is a dict, not a name of mmpretrain's zoo, .*\. Set model\.teacher\.checkpoint to a"
    with pytest.raises(ConfigError, match=message):
        build_distiller(teacher__checkpoint=True)


@pytest.mark.parametrize('keep', [0, 100, 0.5])
def test_a_truncated_checkpoint_is_refused(checkpoint, keep):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(keep if keep >= 1 else len(content) * keep)])
    with pytest.raises(ConfigError, match=r'model\.teacher\.checkpoint='):
        from_checkpoint(checkpoint)


@pytest.mark.parametrize('save_with', [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, weights, save_with):
    trap = tmp_path / 'trap'
    save_with(dict(state_dict=weights, meta=Command(str(trap))), tmp_path / 'evil.pth')
    with pytest.raises(ConfigError, match=r'model\.teacher\.checkpoint='):
        from_checkpoint(tmp_path / 'evil.pth')
    assert not trap.exists()


@pytest.mark.parametrize(
    'statistics',
    [
        dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True),
        dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], to_rgb=False),
        dict(to_rgb=True),
        dict(),
        PREPROCESSOR,
    ],
)
def test_the_teacher_s_input_equals_its_own_preprocessor_s_output(statistics):
    model = build_distiller(teacher__model=dict(TEACHER, data_preprocessor=dict(type='ClsDataPreprocessor', **statistics)))
    raw = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    student_input = model.data_preprocessor(dict(inputs=raw))['inputs']
    seen = []
    model.teacher.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(student_input, labels(2), mode='loss')
    expected = model.teacher.model.data_preprocessor(dict(inputs=raw))['inputs']
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=2e-5 * expected.abs().max().item())
    if statistics is PREPROCESSOR:
        assert seen[0] is student_input


def test_a_teacher_without_a_preprocessor_gets_the_student_s_input():
    model = build_distiller()
    assert model.teacher.renormalize.identity


def test_an_unreadable_folder_is_an_error_of_every_rank(monkeypatch):
    def refuse(path):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(Path, 'is_file', refuse)
    problem = fetch_on_all_ranks(WeightsFile('/no/access/teacher.pth'), 'model.teacher.checkpoint')
    assert problem.startswith("model.teacher.checkpoint='/no/access/teacher.pth' could not be fetched: PermissionError")
