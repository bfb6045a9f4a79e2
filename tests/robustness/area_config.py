"""Attempts with unusual configs."""

from pathlib import Path

import numpy as np
import torch
from builders import CONFIGS, build_distiller, cnn_distiller_config, distiller_config, images, labels
from judging import Act, check, refused, works, works_or_refused
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS
from odd_models import odd_config
from starting import builds, check_close, step

from serkd_mm.losses import LogitKLLoss

NAN, INF = float('nan'), float('inf')
PATCHES, IDENTITY = dict(type='PatchTokenizer'), dict(type='IdentityMerger')
KD = dict(type='LogitKLLoss', on='logits')


def odd(path: str, **changes) -> Act:
    """Build the odd student with a tap at ``path``."""
    return builds(odd_config, path=path, **changes)


def plain_dicts(_folder: Path) -> None:
    config = distiller_config().to_dict()
    config['views']['tokens']['tap'] = None
    config['views']['tokens']['taps'] = ('patches',)  # a tuple
    step(MODELS.build(config).train())


def from_file(text: str, reduce: bool = True) -> Act:
    """Write a child config of the paper's ViT config, build its model at the size of the tests, and take a step."""

    def act(folder: Path) -> None:
        (folder / 'child.py').write_text(text.replace('CONFIGS', str(CONFIGS)))
        model = Config.fromfile(folder / 'child.py').model
        small = distiller_config()
        model.student.model, model.data_preprocessor = small.student.model, small.data_preprocessor
        model.teacher = small.teacher
        step(MODELS.build(model).train())

    return act


CHILD = "_base_ = 'CONFIGS/serkd/deit-ti_mae-b.py'\n"
VIEWS = "dict(tap='patches', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='MaxPoolMerger', cell=2))"
LAZY = """
from serkd_mm.distillers import RelationDistiller
from serkd_mm.losses import FeatureL2Loss, LogitKLLoss
from serkd_mm.mergers import SuperpixelMerger
from serkd_mm.tokenizers import PatchTokenizer
view = dict(tap='patches', tokenizer=dict(type=PatchTokenizer), merger=dict(type=SuperpixelMerger, cell=2))
model = dict(type=RelationDistiller, views=dict(superpixels=view), losses=dict(
    loss_kd=dict(type=LogitKLLoss, on='logits'), loss_feat=dict(type=FeatureL2Loss, on='superpixels')),
    student=dict(taps=dict(patches='backbone.layers[-1]', logits='head.layers.head_dist')), teacher=dict())
"""


def grandchild(folder: Path) -> None:
    (folder / 'a').mkdir()
    added = "model = dict(losses=dict(loss_ra=dict(_delete_=True, type='TokenAngleLoss', on='tokens')))"
    (folder / 'a' / 'one.py').write_text(CHILD.replace('CONFIGS', str(CONFIGS)) + 'model = dict(losses=dict(loss_ra=None))')
    from_file(f"_base_ = ['a/one.py']\n{added}")(folder)


def dumped(folder: Path) -> None:
    config = Config(dict(model=distiller_config(losses__loss_kd__tau=1e-3, input_size=(3, 32, 32))))
    config.dump(folder / 'größe.py')
    check(Config.fromfile(folder / 'größe.py').model == config.model, 'a dumped config is another one')
    first, second = (step(MODELS.build(part.model)) for part in (config, Config.fromfile(folder / 'größe.py')))
    check(first.keys() == second.keys(), 'a dumped config builds other losses')


def equal_views(_folder: Path) -> None:
    one = dict(tap='patches', tokenizer=PATCHES, merger=dict(type='SuperpixelMerger', cell=2))
    model = build_distiller(views__second=one, losses__loss_two=dict(type='TokenDistanceLoss', on='second', loss_weight=0.5))
    losses = step(model.train())
    check(torch.equal(losses['loss_rd'], losses['loss_two']), 'two equal views give different losses')


def many_losses(_folder: Path) -> None:
    model = build_distiller(losses={f'loss_{index}': dict(KD, loss_weight=1 / 200) for index in range(200)}).train()
    losses = step(model)
    total = sum(loss for name, loss in losses.items() if name != 'loss_cls')
    check(len(losses) == 201, f'{len(losses)} losses')
    check_close(total, 200 * losses['loss_0'], 'the sum of 200 equal losses')


def zero_weight(_folder: Path) -> None:
    without, weightless = build_distiller(losses__loss_ra=None), build_distiller(losses__loss_ra__loss_weight=0)
    step(without.train()), step(weightless.train())
    for (name, one), two in zip(without.named_parameters(), weightless.parameters(), strict=True):
        check(torch.equal(one.grad, two.grad), f'a loss of weight 0 changes the gradient of {name}')


def unicode_names(folder: Path) -> None:
    view = dict(tap='größe', tokenizer=PATCHES, merger=IDENTITY)
    taps = dict(größe='backbone.layers[0]', logits='head')
    model = build_distiller(
        student__taps={**taps, 'logits': 'head.layers.head_dist'},
        teacher__taps=taps,
        views=dict(ansicht_ü=view),
        losses=dict(loss_ñ=dict(type='FeatureL2Loss', on='ansicht_ü'), loss_kd=KD),
    )
    step(model.train())
    torch.save(model.state_dict(), folder / 'x.pth')
    model.load_state_dict(torch.load(folder / 'x.pth', weights_only=True), strict=True)


def nested_distiller(_folder: Path) -> None:
    inner = distiller_config()
    step(build_distiller(student__model=inner, student__taps__patches='student.backbone.layers[-1]'))


def two_models_from_one_dict(_folder: Path) -> None:
    config = distiller_config()
    before = config.copy()
    first, second = MODELS.build(config), MODELS.build(config)
    check(config == before, 'building a model changes its config')
    shared = {id(weight) for weight in first.parameters()} & {id(weight) for weight in second.parameters()}
    check(not shared, 'two models share weights')


def wrong_value(loss: str, setting: str, value: object) -> Act:
    return builds(**{f'losses__{loss}__{setting}': value})


def tiny_tau(_folder: Path) -> None:
    model = build_distiller(losses__loss_kd__tau=1e-30).train()
    losses = model(images(), labels(), mode='loss')
    check(losses['loss_kd'].isfinite(), f'tau=1e-30 is accepted and loss_kd={losses["loss_kd"].item()}')


TUPLES = dict(tap='patches', tokenizer=PATCHES, merger=dict(type='SuperpixelMerger', cell=(1, 3)))
ATTEMPTS = [
    works('plain dicts instead of ConfigDict, and taps as a tuple', plain_dicts),
    works('ConfigDict inside a plain dict', lambda f: step(MODELS.build(dict(ConfigDict(distiller_config()))))),
    works('classes instead of names as types', builds(losses__loss_kd=dict(type=LogitKLLoss, on='logits'))),
    works('a type with the scope of mmpretrain', builds(losses__loss_kd__type='mmpretrain.LogitKLLoss')),
    works("a lazy config (mmengine's new format) with classes", from_file(LAZY)),
    works(
        '_delete_ replaces all views',
        from_file(
            f'{CHILD}model = dict(views=dict(_delete_=True, tokens={VIEWS}), losses='
            "dict(loss_rd=dict(on='tokens'), loss_ra=dict(on='tokens')))"
        ),
    ),
    works('a loss removed in the base config returns in a grandchild', grandchild),
    works('a config that is dumped, read and built, with a unicode file name', dumped),
    works('building changes no config, and two models share no weights', two_models_from_one_dict),
    works('the same view under two names', equal_views),
    works('200 losses', many_losses),
    works('a loss of weight 0 has no influence', zero_weight),
    works('unicode names of taps, views and losses', unicode_names),
    works('a loss name of 300 characters', builds(**{f'losses__loss_{"x" * 300}': KD})),
    refused('no loss at all for a student with a distillation head', builds(losses=None), 'model.losses', 'head_dist'),
    works('no loss at all for a CNN trains on labels', builds(cnn_distiller_config, losses=None)),
    refused(
        'a view is removed that a loss reads', builds(views__superpixels=None), 'model.losses.loss_rd.on', 'superpixels'
    ),
    refused('a number as the name of a view', builds(views={1: TUPLES}), 'model.views', '1'),
    refused('a number as the name of a loss', builds(losses={7: KD}), 'model.losses', '7'),
    refused('a number as the name of a tap', builds(student__taps={1: 'head'}), 'logits'),
    refused("a loss name that is a module's attribute inside", builds(losses={'loss_a.b': KD}), 'model.losses', 'loss_a.b'),
    refused("a view called 'training'", builds(views__training=TUPLES), 'model.views', 'training'),
    refused('an empty name of a view', builds(**{'views__': TUPLES}), 'model.views'),
    refused('a list of taps', builds(student__taps=['backbone.layers[-1]']), 'model.student.taps'),
    refused('a view as a list', builds(views__tokens=[TUPLES]), 'model.views.tokens'),
    refused('a tokenizer as a string', builds(views__tokens__tokenizer='PatchTokenizer'), 'model.views.tokens.tokenizer'),
    refused('a type that is a number', builds(losses__loss_kd__type=3), 'model.losses.loss_kd.type'),
    refused('a type that is None', builds(losses__loss_kd__type=None), 'model.losses.loss_kd.type'),
    refused('a function as a type', builds(losses__loss_kd__type=len), 'model.losses.loss_kd.type'),
    works_or_refused('a distiller as the student of a distiller', nested_distiller, 'model.student'),
    refused('input_size of two numbers', builds(input_size=(32, 32)), 'input_size'),
    refused('input_size of zeros', builds(input_size=(3, 0, 0)), 'input_size'),
    # Taps
    works('a tap inside a Sequential in a Sequential', odd('backbone.block[1][0]')),
    works('a tap in a ModuleDict, with a unicode name', odd('backbone.stages.zwei_größe')),
    works('a tap by number instead of index', builds(student__taps__patches='backbone.layers.1')),
    works('a tap whose output is changed in place afterwards', odd('backbone.block')),
    works('a tap on a module that returns one tensor in a tuple', odd('backbone.a_tuple')),
    refused('a tap on a module that runs twice', odd('backbone.twice'), 'model.student.taps.stage3', 'more than once'),
    refused('a tap on a module that never runs', odd('backbone.never'), 'model.student.taps.stage3', 'not run'),
    refused('a tap on a module that returns a dict', odd('backbone.a_dict'), 'model.student.taps.stage3', 'dict'),
    refused('a tap on a module that returns two tensors', odd('backbone.a_list'), 'model.student.taps.stage3', 'list'),
    refused('a tap on a module that returns None', odd('backbone.nothing'), 'model.student.taps.stage3', 'None'),
    refused('a tap with a slice', odd('backbone.block[0:1]'), 'model.student.taps.stage3', '[0:1]'),
    refused('a tap with an index too far from the end', odd('backbone.block[-3]'), 'model.student.taps.stage3', '2 modules'),
    refused('a tap with a space at the end', odd('backbone.block '), 'model.student.taps.stage3', 'backbone.block '),
    refused('an empty tap', odd(''), 'model.student.taps.stage3'),
    refused('a tap on a list of modules', odd('backbone.stages'), 'model.student.taps.stage3', 'not run'),
    refused('a tap on a method', odd('backbone.forward'), 'model.student.taps.stage3', 'forward'),
    refused('a tap that the teacher alone has', builds(student__taps=dict(logits='head')), 'patches'),
    # Weights, temperatures, sizes
    refused('loss_weight=nan', wrong_value('loss_rd', 'loss_weight', NAN), 'model.losses.loss_rd', 'loss_weight'),
    refused('loss_weight=inf', wrong_value('loss_rd', 'loss_weight', INF), 'model.losses.loss_rd', 'loss_weight'),
    refused("loss_weight='1.0'", wrong_value('loss_rd', 'loss_weight', '1.0'), 'model.losses.loss_rd', 'loss_weight'),
    refused('loss_weight=True', wrong_value('loss_rd', 'loss_weight', True), 'model.losses.loss_rd', 'loss_weight'),
    refused('loss_weight=None', wrong_value('loss_rd', 'loss_weight', None), 'model.losses.loss_rd', 'loss_weight'),
    refused('loss_weight=[1, 2]', wrong_value('loss_rd', 'loss_weight', [1, 2]), 'model.losses.loss_rd', 'loss_weight'),
    works('loss_weight as a NumPy number', wrong_value('loss_rd', 'loss_weight', np.float32(0.5))),
    refused('tau=nan', wrong_value('loss_kd', 'tau', NAN), 'model.losses.loss_kd', 'tau'),
    refused('tau=True', wrong_value('loss_kd', 'tau', True), 'model.losses.loss_kd', 'tau'),
    refused('tau=-1', wrong_value('loss_kd', 'tau', -1), 'model.losses.loss_kd', 'tau'),
    works_or_refused('tau=1e-30, which overflows', tiny_tau, 'tau'),
    works('cells of 1x3 on a 4x4 grid', builds(views__superpixels=TUPLES)),
    works('a grid of 1x3', builds(views__superpixels__merger=dict(type='SuperpixelMerger', grid=(1, 3)))),
    refused('a grid of 9x9 on 4x4 tokens', builds(views__superpixels__merger__grid=9), 'superpixels', '9x9'),
    refused('a cell of three numbers', builds(views__superpixels__merger__cell=(1, 2, 3)), 'superpixels', 'cell'),
    refused('a cell of 2.0', builds(views__superpixels__merger__cell=2.0), 'superpixels', 'cell'),
    refused('num_iters=True', builds(views__superpixels__merger__num_iters=True), 'superpixels', 'num_iters'),
    works('num_iters=100', builds(views__superpixels__merger__num_iters=100)),
    refused("detach_association='no'", builds(views__superpixels__merger__detach_association='no'), 'detach_association'),
    refused('num_extra_tokens=True', builds(views__tokens__tokenizer__num_extra_tokens=True), 'num_extra_tokens'),
    refused('num_extra_tokens=1.5', builds(views__tokens__tokenizer__num_extra_tokens=1.5), 'num_extra_tokens'),
    refused('num_extra_tokens=99', builds(views__tokens__tokenizer__num_extra_tokens=99), 'num_extra_tokens'),
]
