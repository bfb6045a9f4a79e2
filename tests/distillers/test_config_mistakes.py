"""Errors in a config fail when the model is built; the message has the config key and the valid names."""

import re

import pytest
from builders import STUDENT, TEACHER, cnn_distiller_config, distiller_config
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.losses.base_loss import BaseDistillationLoss

PATCHES = dict(type='PatchTokenizer')
SUPERPIXELS = dict(type='SuperpixelMerger')
SEVERAL = dict(tokenizer=PATCHES, merger=SUPERPIXELS)

MISTAKES = [
    # settings, config key in the message, something else in the message
    (dict(loses={}), 'model.loses', 'losses'),
    (dict(student__tap={}), 'model.student.tap', 'taps'),
    (dict(teacher__ckpt='x'), 'model.teacher.ckpt', 'checkpoint'),
    (dict(views__superpixels__mergers={}), 'model.views.superpixels.mergers', 'merger'),
    (dict(student__taps={}), 'model.losses.loss_kd.on', 'neither a view nor a tap'),
    (dict(student__taps__patches='backbone.layer[-1]'), 'model.student.taps.patches', "'layers'"),
    (dict(student__taps__patches='backbone.layers[2]'), 'model.student.taps.patches', '2 modules'),
    (dict(student__taps__patches='backbone[-1]'), 'model.student.taps.patches', 'not a list'),
    (dict(student__taps__patches='backbone..layers'), 'model.student.taps.patches', 'not a module path'),
    (dict(student__taps__patches=3), 'model.student.taps.patches', 'not a module path'),
    (dict(student__taps__logits='head.layers.head_dits'), 'model.student.taps.logits', "'head_dist'"),
    (dict(teacher__taps__logits='head.fcs'), 'model.teacher.taps.logits', "'fc'"),
    (dict(teacher__taps=dict(patches='backbone.layers[-1]')), 'model.teacher.taps', "'logits'"),
    (dict(student__taps__patches='backbone'), 'model.student.taps.patches', 'one tensor'),
    (dict(student__taps__patches='backbone.norm_never_run'), 'model.student.taps.patches', 'norm_never_run'),
    (dict(teacher__taps__patches='backbone.ln2'), 'model.views', 'transformer block'),
    (dict(views__superpixels__tap='patchs'), 'model.views.superpixels.tap', "'patches'"),
    (dict(views__superpixels__tap=None), 'model.views.superpixels.tap', 'must name a tap'),
    (dict(views__superpixels__taps=['patches']), 'model.views.superpixels', 'both tap and taps'),
    (dict(views__superpixels=dict(SEVERAL, taps=[])), 'model.views.superpixels.taps', '[]'),
    (dict(views__superpixels=dict(SEVERAL, taps='patches')), 'model.views.superpixels.taps', "'patches'"),
    (dict(views__superpixels=dict(SEVERAL, taps=['patches', 'patches'])), 'model.views.superpixels.taps', 'different taps'),
    (dict(views__superpixels=dict(SEVERAL, taps=['patches', None])), 'model.views.superpixels.taps', 'None'),
    (dict(views__superpixels=dict(SEVERAL, taps=['patches', 'patchs'])), 'model.views.superpixels.taps', "'patches'"),
    (dict(views__logits=dict(tap='patches', tokenizer=PATCHES, merger=SUPERPIXELS)), 'model.views.logits', 'ambiguous'),
    (dict(views__superpixels__tokenizer=dict(type='PatchTokenzier')), 'model.views.superpixels.tokenizer', 'PatchTokenizer'),
    (dict(views__superpixels__tokenizer=dict(type='LinearClsHead')), 'model.views.superpixels.tokenizer', 'not a Tokenizer'),
    (dict(views__superpixels__tokenizer=dict(type='PoolTokenizer')), 'model.views.superpixels', 'feature map'),
    (
        dict(views__superpixels__refiner=dict(type='SuperpixelMerger')),
        'model.views.superpixels.refiner',
        'SuperpixelRefiner',
    ),
    (dict(views__superpixels__merger=dict(type='SuperpixelMergers')), 'model.views.superpixels.merger', 'SuperpixelMerger'),
    (dict(views__superpixels__merger=dict(type='LinearClsHead')), 'model.views.superpixels.merger', 'not a Merger'),
    (dict(views__superpixels__merger__cells=2), 'model.views.superpixels.merger.cells', "'cell'"),
    (dict(views__superpixels__merger__cell=0), 'model.views.superpixels.merger', 'positive'),
    (dict(views__superpixels__merger__cell=5), 'model.views.superpixels', 'larger than the token grid 4x4'),
    (dict(views__superpixels__merger=None), 'model.views.superpixels.merger', 'dict'),
    (dict(losses__loss_rd__on='superpixel'), 'model.losses.loss_rd.on', "'superpixels'"),
    (dict(losses__loss_rd__on='logits'), 'model.losses.loss_rd', 'compares tokens'),
    (dict(losses__loss_kd__on='tokens'), 'model.losses.loss_kd', 'compares logits'),
    (dict(losses__loss_kd__on=None), 'model.losses.loss_kd.on', 'neither a view nor a tap'),
    (dict(losses__loss_rd__on=['tokens', 'superpixels']), 'model.losses.loss_rd.on', 'neither a view nor a tap'),
    (dict(losses__loss_kdd=dict(loss_weight=2.0)), 'model.losses.loss_kdd', "no 'type'"),
    (dict(losses__kd=dict(type='LogitKLLoss', on='logits')), 'model.losses.kd', "'loss_'"),
    (dict(losses__loss_cls=dict(type='LogitKLLoss', on='logits')), 'model.losses.loss_cls', 'task loss'),
    (dict(losses__loss_kd__type='LogitKLLos'), 'model.losses.loss_kd.type', "'LogitKLLoss'"),
    (dict(losses__loss_kd__temperature=2.0), 'model.losses.loss_kd.temperature', ''),
    (dict(losses__loss_kd__loss_wieght=2.0), 'model.losses.loss_kd.loss_wieght', "'loss_weight'"),
    (dict(losses__loss_kd__tau=0), 'model.losses.loss_kd', 'tau must be'),
    (dict(losses__loss_rd__loss_weight=-1), 'model.losses.loss_rd', 'loss_weight must be'),
    (dict(losses__loss_kd=None), 'model.losses', 'head.layers.head_dist.weight'),
    (dict(losses=[1]), 'model.losses', 'dict'),
    (dict(losses__loss_kd=1.0), 'model.losses.loss_kd', 'dict'),
    (dict(student__model='deit-tinny_4xb256_in1k'), 'model.student.model', 'deit-tiny_4xb256_in1k'),
    (dict(teacher__model='vit-base-p16_mae-1600e-pre_8xb128-coslr-100e'), 'model.teacher.model', '100e_in1k'),
    (dict(teacher__model='configs/teacherr.py'), 'model.teacher.model', 'no such file'),
    (dict(teacher__model='mmpretrain::deit/deit-tini_4xb256_in1k.py'), 'model.teacher.model', 'deit-tiny_4xb256_in1k'),
    (dict(teacher__model=None), 'model.teacher.model', 'zoo'),
    (dict(student__model=dict(STUDENT, type='ImageClasifier')), 'model.student.model.type', 'ImageClassifier'),
    (dict(teacher__model=dict(TEACHER, backbone=dict(type='NoSuchNet'))), 'model.teacher.model', 'NoSuchNet'),
    (dict(teacher__model=dict(TEACHER, head=dict(TEACHER['head'], num_classes=7))), 'model.losses.loss_kd', '(2, 7)'),
    (dict(teacher__allow_random_teacher=False), 'model.teacher.checkpoint', 'allow_random_teacher'),
    (dict(teacher__allow_random_teacher='no'), 'model.teacher.allow_random_teacher', "True or False, but is 'no'"),
    (dict(teacher__allow_random_teacher=1), 'model.teacher.allow_random_teacher', 'True or False'),
    (dict(teacher__channels_last='no'), 'model.teacher.channels_last', "'no'"),
    (dict(student__channels_last=0), 'model.student.channels_last', 'True or False'),
    (dict(student__compile='no'), 'model.student.compile', "'no'"),
    (dict(views__superpixels__merger__detach_association='no'), 'model.views.superpixels.merger', 'detach_association'),
    (dict(student__model__head__distilled_training='no'), 'model.student.model', 'distilled_training must be True or False'),
    (
        dict(teacher__allow_random_teacher=False, teacher__checkpoint='teachr.pth'),
        'model.teacher.checkpoint',
        'no such file',
    ),
    # Wrong types and values.
    (dict(losses__loss_rd__on=['x']), "model.losses.loss_rd.on=['x']", 'superpixels'),
    (dict(input_size='abc'), 'model.input_size', "'abc'"),
    (dict(input_size=224), 'model.input_size', '(channels, height, width)'),
    (dict(student__taps='abc'), 'model.student.taps', "'abc'"),
    (dict(losses__loss_rrd=dict(type='RRDLoss', on='tokens', queue_size=True)), 'model.losses.loss_rrd: queue_size', 'True'),
    (dict(losses__loss_rrd=dict(type='RRDLoss', on='tokens', queue_size=1)), 'model.losses.loss_rrd: queue_size', 'least 2'),
    (dict(losses__loss_kd__tau=True), 'model.losses.loss_kd: tau', 'True'),
    (dict(losses__loss_kd__loss_weight='abc'), 'model.losses.loss_kd: loss_weight', "'abc'"),
    (dict(views__superpixels__merger__num_iters=True), 'model.views.superpixels.merger: num_iters', 'True'),
    (dict(views__superpixels__merger__detach_association='no'), 'model.views.superpixels.merger: detach', "'no'"),
    (dict(views__superpixels__merger__tau=0), 'model.views.superpixels.merger: tau', 'positive'),
    (dict(views__superpixels__merger__normalize='no'), 'model.views.superpixels.merger: normalize', "'no'"),
    (dict(student__model__head__num_classes='abc'), "model.student.model.head.num_classes='abc'", 'an integer'),
    (dict(teacher__model__head__num_classes='abc'), "model.teacher.model.head.num_classes='abc'", 'an integer'),
    (dict(student__model__backbone__patch_size='abc'), "model.student.model.backbone.patch_size='abc'", ''),
    (dict(student__model__backbone__drop_path_rte=0.1), 'model.student.model.backbone: ', 'drop_path_rte'),
    (dict(data_preprocessor__num_classes='abc'), 'data_preprocessor.num_classes', "'abc'"),
    (dict(data_preprocessor__mean=[1.0, 2.0]), 'data_preprocessor.mean', '1 or 3'),
    (dict(data_preprocessor__std=[0, 1, 1]), 'data_preprocessor.std', 'positive'),
    (dict(data_preprocessor__std='abc'), 'data_preprocessor.std', "'abc'"),
    (dict(data_preprocessor__std=None), 'data_preprocessor', 'both or neither'),
    (
        dict(teacher__model=dict(TEACHER, data_preprocessor=dict(mean=[1.0, 2.0], std=[1.0, 2.0]))),
        'model.teacher.model.data_preprocessor.mean',
        '1 or 3',
    ),
    # Relations of one or two tokens are constant.
    (dict(views__superpixels__merger__cell=4), "model.losses.loss_rd (TokenDistanceLoss on 'superpixels')", 'but got 1'),
    (dict(views__superpixels__merger__cell=(4, 2)), "model.losses.loss_rd (TokenDistanceLoss on 'superpixels')", 'got 2'),
    (
        dict(views__superpixels__merger__grid=1, losses__loss_rd=None),
        "model.losses.loss_ra (TokenAngleLoss on 'superpixels')",
        'always 0',
    ),
    (
        dict(views__superpixels__merger__grid=7),
        'model.views.superpixels: grid 7x7 is larger than the token grid 4x4. Set a smaller merger.grid',
        'or use larger images. With model.input_size=(channels, height, width)',
    ),
    (dict(teacher__checkpoint=3), 'model.teacher.checkpoint', 'path'),
    (dict(teacher__checkpoint=True), 'model.teacher.checkpoint', 'zoo'),
]


@pytest.mark.parametrize(
    ('settings', 'key', 'hint'), MISTAKES, ids=[f'{index}-{key}' for index, (_, key, _) in enumerate(MISTAKES)]
)
def test_the_message_has_the_key_and_the_valid_names(settings, key, hint):
    with pytest.raises(ConfigError, match=re.escape(key)) as error:
        MODELS.build(distiller_config(**settings))
    assert hint in str(error.value)


def test_a_missing_checkpoint_lists_similar_files(tmp_path):
    (tmp_path / 'teacher_best.pth').touch()
    settings = dict(teacher__allow_random_teacher=False, teacher__checkpoint=str(tmp_path / 'teacher_bset.pth'))
    with pytest.raises(ConfigError, match=r'model\.teacher\.checkpoint=.*no such file.*teacher_best\.pth'):
        MODELS.build(distiller_config(**settings))


def test_different_grids_of_student_and_teacher_are_reported_with_a_remedy():
    teacher = dict(TEACHER, backbone=dict(TEACHER['backbone'], patch_size=4))
    message = r'model\.views\.tokens.*\(4, 4\).*\(8, 8\).*merger\.grid=\(4, 4\)'
    with pytest.raises(ConfigError, match=message):
        MODELS.build(distiller_config(teacher__model=teacher))
    tokens = dict(type='AvgPoolMerger', grid=(4, 4))
    message = r'model\.views\.superpixels.*\(2, 2\).*\(4, 4\).*merger\.grid=\(2, 2\)'
    with pytest.raises(ConfigError, match=message):
        MODELS.build(distiller_config(teacher__model=teacher, views__tokens__merger=tokens))
    superpixels = dict(type='SuperpixelMerger', grid=2)
    MODELS.build(
        distiller_config(teacher__model=teacher, views__tokens__merger=tokens, views__superpixels__merger=superpixels)
    )


def test_errors_in_a_view_of_several_taps_name_the_tap():
    # 8x8 positions of the third stage are too few; the first two stages have enough.
    with pytest.raises(ConfigError, match=r'^model\.views\.tokens.*stage3.*larger than the token grid 8x8'):
        MODELS.build(cnn_distiller_config(views__tokens__tokenizer__grid=14))
    with pytest.raises(ConfigError, match=r'^model\.views\.tokens.*stage2.*\(8, 8\).*\(4, 4\)'):
        MODELS.build(
            cnn_distiller_config(
                views__tokens=dict(
                    taps=['stage1', 'stage2'],
                    tokenizer=dict(type='PoolTokenizer', window=2),
                    merger=dict(type='IdentityMerger'),
                ),
                teacher__taps__stage2='backbone.layer3',
            )
        )


@pytest.mark.parametrize('name', ['values', 'backbone.layer1'])
def test_a_name_that_a_tap_cannot_have_is_reported(name):
    # State dicts name losses, refiners and tokenizers by tap; these are not names of modules.
    view = dict(tap=name, tokenizer=PATCHES, merger=SUPERPIXELS)
    paths = {name: 'backbone.layers[-1]', 'logits': 'head'}
    with pytest.raises(ConfigError, match=re.escape(name)):
        MODELS.build(
            distiller_config(
                student__taps={**paths, 'logits': 'head.layers.head_dist'},
                teacher__taps=paths,
                views=dict(superpixels=view),
                losses__loss_feat=None,
            )
        )


def test_an_input_size_that_does_not_fit_the_model_is_reported():
    with pytest.raises(ConfigError, match=r'\(2, 1, 32, 32\) failed.*model\.input_size'):
        MODELS.build(distiller_config(input_size=(1, 32, 32)))


def test_labels_that_do_not_fit_the_student_are_reported():
    settings = dict(student__model__train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
    settings['data_preprocessor'] = dict(num_classes=7)
    with pytest.raises(ConfigError, match=r'generated images.*failed.*target'):
        MODELS.build(distiller_config(**settings))


class ForgottenLabels(BaseDistillationLoss):
    """A loss that reads labels without ``needs_labels = True``."""

    def compare(self, student, teacher, target):
        return student.sum()


def test_an_error_of_any_kind_in_a_loss_has_its_name():
    message = r"^model\.losses\.loss_own \(ForgottenLabels\): .* failed.*missing 1 required positional argument: 'target'"
    with pytest.raises(ConfigError, match=message):
        MODELS.build(distiller_config(losses__loss_own=dict(type=ForgottenLabels, on='logits')))


def test_training_without_a_teacher_is_refused():
    model = MODELS.build(distiller_config(teacher=None))
    with pytest.raises(ConfigError, match=r'model\.teacher is None'):
        model.loss(None, None)
