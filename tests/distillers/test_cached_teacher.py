import copy

import pytest
import torch
from builders import PREPROCESSOR, TEACHER, build_distiller, cnn_distiller_config, distiller_config, images, labels
from caches import VIEW_PREPROCESSOR, samples_with_records, write_teacher_cache
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.cache_plan import plan_outputs
from serkd_mm.distillers.frozen_teacher import FrozenTeacher
from serkd_mm.losses import TokenDistanceLoss

PATCHES = dict(type='PatchTokenizer')
FIVE_CLASSES = dict(TEACHER['head'], num_classes=5)


def live_and_cached(folder, config=distiller_config, size=32, changes=None, **options):
    """Return a model with its teacher, the same student with a cache for four images, and the samples of these."""
    changes = changes or {}
    live = build_distiller(config, **changes)
    write_teacher_cache(folder, live, images(size=size), config(**changes).teacher, **options)
    cached = build_cached(folder, config, **changes)
    cached.load_state_dict(live.state_dict())
    return live, cached, samples_with_records(folder, labels())


def build_cached(folder, config=distiller_config, **changes):
    """Build a model that reads a cache."""
    settings = config(**changes)
    settings.data_preprocessor = copy.deepcopy(VIEW_PREPROCESSOR)
    settings.teacher.cache = str(folder)
    return MODELS.build(settings)


def gradients(model, losses) -> list[torch.Tensor]:
    """Gradients of the sum of the losses."""
    return torch.autograd.grad(sum(losses.values()), [weight for weight in model.parameters() if weight.requires_grad])


def all_losses(**changes):
    """The losses of every kind on the small pair: relations, logits, classes, tokens, features and means."""
    model = distiller_config(**changes)
    model.losses.update(
        loss_hard=dict(type='HardLabelLoss', on='logits'),
        loss_rkd=dict(type='InstanceDistanceLoss', on='superpixels'),
        loss_rrd=dict(type='RRDLoss', on='patches', queue_size=8, embed_dim=4),
        loss_sekd=dict(type='ChannelGraphLoss', on='direct'),
    )
    model.views.direct = dict(tap='patches', tokenizer=PATCHES, merger=dict(type='AvgPoolMerger', cell=2))
    return model


def logit_methods(**changes):
    """DIST, DKD, NKD, and dense logits of a tap whose path has a classifier at every position."""
    model = distiller_config(**changes)
    model.student.taps.dense, model.teacher.taps.dense = (
        'backbone.layers[-1]|head.layers.head',
        'backbone.layers[-1]|head.fc',
    )
    model.views = dict(dense_grid=dict(tap='dense', tokenizer=PATCHES, merger=dict(type='AvgPoolMerger', cell=2)))
    model.losses = dict(loss_dense=dict(type='DenseLogitsLoss', on='dense_grid', ratio=0.5))
    for name in ('DISTLoss', 'DKDLoss', 'NKDLoss'):
        model.losses[f'loss_{name}'] = dict(type=name, on='logits')
    return model


@pytest.mark.parametrize(
    ('config', 'size'), [(distiller_config, 32), (all_losses, 32), (logit_methods, 32), (cnn_distiller_config, 64)]
)
def test_losses_and_gradients_equal_those_with_the_teacher(config, size, tmp_path):
    live, cached, samples = live_and_cached(tmp_path, config, size)
    inputs = images(size=size)
    expected = live(inputs, labels(), mode='loss')
    losses = cached(inputs, samples, mode='loss')
    assert list(losses) == list(expected)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-7)
    scale = max(gradient.abs().max() for gradient in gradients(live, live(inputs, labels(), mode='loss')))
    pairs = gradients(cached, cached(inputs, samples, mode='loss')), gradients(live, live(inputs, labels(), mode='loss'))
    torch.testing.assert_close(*pairs, rtol=1e-4, atol=1e-5 * scale.item())


@pytest.mark.parametrize('config', [distiller_config, logit_methods])
def test_half_precision_changes_the_losses_by_its_rounding(config, tmp_path):
    live, cached, samples = live_and_cached(tmp_path, config, dtype='float16')
    torch.testing.assert_close(
        cached(images(), samples, mode='loss'), live(images(), labels(), mode='loss'), rtol=1e-3, atol=1e-3
    )


def test_tokens_of_a_basis_of_all_channels_are_nearly_those_of_the_teacher(tmp_path):
    live, cached, samples = live_and_cached(tmp_path, full=False, rank=24)
    torch.testing.assert_close(
        cached(images(), samples, mode='loss')['loss_feat'],
        live(images(), labels(), mode='loss')['loss_feat'],
        rtol=1e-2,
        atol=0,
    )


def test_the_teacher_is_neither_built_nor_needed(tmp_path, monkeypatch):
    live, _, samples = live_and_cached(tmp_path)
    monkeypatch.setattr(FrozenTeacher, '__init__', None)
    settings = distiller_config()
    settings.data_preprocessor = VIEW_PREPROCESSOR
    settings.teacher = dict(cache=str(tmp_path))
    cached = MODELS.build(settings)
    cached.init_weights()
    assert set(cached.state_dict()) == set(live.state_dict())
    assert copy.deepcopy(cached).teacher is cached.teacher
    assert sum(cached(images(), samples, mode='loss').values()).isfinite()
    with pytest.raises(ConfigError, match=r'model\.teacher\.cache=.*the teacher is not built'):
        cached.extract_features(images())


def test_records_are_decoded_once_however_many_losses_read_them(tmp_path, monkeypatch):
    _, cached, samples = live_and_cached(tmp_path)
    decoded = []
    for form in cached.teacher._cache.formats:
        decode = form.decode
        monkeypatch.setattr(
            form, 'decode', lambda records, decode=decode, form=form: (decoded.append(form), decode(records))[1]
        )
    cached(images(), samples, mode='loss')
    assert len(decoded) == len(set(map(id, decoded))) == 3  # Relations serve both losses; tokens and logits.


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(teacher__model=dict(TEACHER, head=dict(TEACHER['head'], num_classes=5))),
            r'another teacher: .*num_classes was 4',
        ),
        (dict(teacher__input_size=64), r'another teacher: model\.teacher\.input_size was None and is \[64, 64\]'),
        (dict(teacher__model__data_preprocessor=PREPROCESSOR), r'another teacher: model\.teacher\.preprocessor'),
        (dict(teacher__checkpoint='other.pth'), r"another teacher: model\.teacher\.checkpoint was None and is 'other\.pth'"),
        (
            dict(teacher__taps__patches='backbone.layers[0]'),
            r"loss_feat .*'backbone\.layers\[0\]'.*does not hold\. It holds",
        ),
        (
            dict(views__superpixels__merger__cell=1),
            r'loss_rd .*SuperpixelMerger\(cell=1.*does not hold.*SuperpixelMerger\(cell=2',
        ),
        (dict(losses__loss_rrd=dict(type='RRDLoss', on='patches')), r'loss_rrd .*reads mean of .*CONFIG CONFIG'),
        (dict(teacher__model='gone.py'), r"model\.teacher\.model='gone\.py'.*no such file.*set model\.teacher\.model=None"),
        (dict(teacher__chache='x'), r'model\.teacher\.chache is not a setting'),
    ],
)
def test_a_cache_of_something_else_is_refused_when_the_model_is_built(changes, message, tmp_path):
    live = build_distiller()
    write_teacher_cache(tmp_path, live, images(), distiller_config().teacher)
    with pytest.raises(ConfigError, match=message):
        build_cached(tmp_path, **changes)


def test_other_weights_at_the_same_path_are_refused(tmp_path):
    file, folder = tmp_path / 'teacher.pth', tmp_path / 'cache'
    torch.save(dict(state_dict=build_distiller().teacher.model.state_dict()), file)
    changes = dict(teacher__checkpoint=str(file))
    write_teacher_cache(folder, build_distiller(**changes), images(), distiller_config(**changes).teacher)
    build_cached(folder, **changes)
    moved = file.rename(tmp_path / 'moved.pth')
    build_cached(folder, **changes)  # The file is not needed.
    build_cached(folder, teacher__checkpoint=str(moved))
    torch.save(dict(state_dict=build_distiller().student.state_dict()), file)
    with pytest.raises(ConfigError, match=r'another teacher: model\.teacher\.checkpoint=.*other weights \(SHA-256 \w{8}'):
        build_cached(folder, **changes)


def test_an_ordinary_preprocessor_is_refused_when_the_model_is_built(tmp_path):
    write_teacher_cache(tmp_path, build_distiller(), images(), distiller_config().teacher)
    with pytest.raises(ConfigError, match=r"model\.teacher\.cache: .*data_preprocessor\.type='ViewPreprocessor'"):
        MODELS.build(distiller_config(teacher__cache=str(tmp_path)))
    with pytest.raises(ConfigError, match=r'train_cfg\.augments'):
        build_cached(tmp_path, student__model__train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))


def test_samples_without_their_records_are_refused(tmp_path):
    _, cached, samples = live_and_cached(tmp_path / 'one')
    with pytest.raises(ConfigError, match=r'the images have no records\. .*RepeatableViews'):
        cached(images(), labels(), mode='loss')
    write_teacher_cache(
        tmp_path / 'two', build_distiller(), images(seed=1), distiller_config(teacher__allow_random_teacher=True).teacher
    )
    samples[0].set_field('another', 'teacher_cache_id', field_type='metainfo')
    with pytest.raises(ConfigError, match='the records of another cache'):
        cached(images(), samples, mode='loss')


def test_a_folder_without_a_cache_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'model\.teacher\.cache=.*no teacher cache\. .*tools/cache_teacher\.py'):
        build_cached(tmp_path)
    with pytest.raises(ConfigError, match=r'model\.teacher\.cache must be the path'):
        MODELS.build(distiller_config(teacher__cache=3))


class UncachedLoss(TokenDistanceLoss):
    """A loss that needs the teacher itself."""

    teacher_content = None


def test_a_loss_that_needs_the_teacher_is_refused_by_name():
    model = build_distiller(losses__loss_own=dict(type=UncachedLoss, on='superpixels'))
    with pytest.raises(ConfigError, match=r'^model\.losses\.loss_own cannot be computed from a cache'):
        plan_outputs([(model.distill, model.teacher.taps.paths)], full_tokens=False)


def contents(*configs, full=False):
    """What is stored for several configs: the content, and the losses that read it."""
    models = [build_distiller(config) for config in configs]
    plan = plan_outputs([(model.distill, model.teacher.taps.paths) for model in models], full)
    return sorted((output.content, *output.losses) for output in plan)


def test_one_plan_serves_several_configs_and_stores_nothing_twice():
    pooled = lambda: distiller_config(views__superpixels__merger=dict(type='AvgPoolMerger', cell=2))  # noqa: E731
    expected = [('logits', 'loss_kd'), ('relations', 'loss_rd', 'loss_ra'), ('tokens', 'loss_feat')]
    assert contents(distiller_config) == contents(distiller_config, distiller_config) == expected
    assert contents(distiller_config, pooled) == sorted([*expected, ('relations', 'loss_rd', 'loss_ra')])
    assert ('features', 'loss_feat') in contents(distiller_config, full=True)


def test_what_is_stored_whole_is_not_stored_in_parts():
    assert contents(all_losses, distiller_config) == [
        ('features', 'loss_rkd', 'loss_rd', 'loss_ra'),
        ('features', 'loss_sekd'),
        ('logits', 'loss_kd', 'loss_hard'),
        ('mean', 'loss_rrd'),
        ('tokens', 'loss_feat'),
    ]


def test_every_loss_says_what_it_needs():
    known = {'features', 'tokens', 'relations', 'mean', 'logits', 'class', None}
    losses = build_distiller(all_losses).distill.losses
    assert {loss.teacher_content for by_tap in losses.values() for loss in by_tap.values()} == known - {None}
