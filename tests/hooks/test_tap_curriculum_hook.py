"""LEAP's curriculum on pairs where the blocks can be predicted; run as a script, this file is one of two ranks."""

import copy
import os
import re
import shutil
import sys

import pytest
import torch
from builders import TEACHER, build_distiller, distiller_config, images, leave_ranks, run_ranks, training_config
from caches import VIEW_PREPROCESSOR, write_teacher_cache
from checkpoints import assert_equal_files
from formulas import gram_cka
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, MODELS
from torch import distributed

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.cache_sources import build_source

pytestmark = pytest.mark.usefixtures('runner_scope')

DEPTH, COPIED = 5, 2  # Blocks of the teacher, and how many of them are the student.
BLOCKS = 'backbone.layers[{}]'
CHANGES = {
    'model.losses': dict(loss_feat=dict(type='FeatureL2Loss', on='tokens')),
    'model.student.taps': dict(patches='backbone.layers[-1]'),
    'model.teacher.taps': dict(patches='backbone.layers[-1]'),
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
}


def vit(depth):
    """A small ViT; models of different depth have the same first blocks."""
    model = copy.deepcopy(TEACHER)
    model['backbone']['arch']['num_layers'] = depth
    return model


def write_pair(folder):
    """Write a teacher, and a student that is its first blocks. Later blocks change the tokens much."""
    torch.manual_seed(1)
    weights = MODELS.build(vit(DEPTH)).state_dict()
    for name, value in weights.items():
        if '.ffn.' in name and name.endswith('weight'):
            value.mul_(20)
    torch.save(weights, folder / 'teacher.pth')
    own = {name: value for name, value in weights.items() if not name.startswith(tuple(dropped(COPIED)))}
    torch.save(own, folder / 'student.pth')


def paths(*numbers):
    return [BLOCKS.format(number) for number in numbers]


def dropped(first):
    return [f'backbone.layers.{number}.' for number in range(first, DEPTH)]


def curriculum_config(root, work_dir, curriculum, **changes):
    """The config of a training with the curriculum; the tap would stay at the last block."""
    changes = {**CHANGES, **changes}
    train_cfg = changes.pop('train_cfg', None)
    config = training_config(root, work_dir, **changes)
    if train_cfg is not None:
        config.train_cfg = train_cfg
    if curriculum is not None:
        hook = dict(type='TapCurriculumHook', tap='patches', loss='loss_feat', paths=BLOCKS)
        config.custom_hooks = [*config.custom_hooks, {**hook, **curriculum}]
    return config


def copied_pair(config, folder):
    """Let the student be the first blocks of the teacher, and stay so."""
    student = vit(COPIED)
    config.model.student.update(model=student, checkpoint=str(folder / 'student.pth'))
    config.model.teacher.update(model=vit(DEPTH), checkpoint=str(folder / 'teacher.pth'), allow_random_teacher=False)
    config.optim_wrapper.optimizer.lr = 0.0
    return config


class Record(Hook):
    """Record the block of every iteration, the logged values, and CKA of the tokens of each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.blocks, self.ckas, self.own, self.ran = [], [], [], []

    def before_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        self.teacher, loss = model.teacher, model.distill.losses.loss_feat.patches
        loss.register_forward_hook(self.measure)
        for number, layer in enumerate(self.teacher.model.backbone.layers):
            layer.register_forward_hook(lambda *_, number=number: self.ran.append(number))

    def measure(self, loss, inputs, _output):
        student, teacher = inputs
        if loss.training:
            mapped = loss.projector(student).detach()
            self.own.append(gram_cka(mapped.flatten(0, 1), teacher.flatten(0, 1)).item())

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.blocks.append(self.teacher.taps.paths['patches'])
        self.ran.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        assert max(self.ran) == int(self.blocks[-1].partition('[')[2].removesuffix(']'))  # Nothing runs after the block.
        scalars = runner.message_hub.log_scalars
        self.ckas.append(float(scalars['train/cka'].current()) if 'train/cka' in scalars else None)


def run(config, identity=False):
    runner, record = Runner.from_cfg(config), Record()
    runner.register_hook(record)
    if identity:
        projector = runner.model.distill.losses.loss_feat.patches.projector
        torch.nn.init.eye_(projector.weight)
        torch.nn.init.zeros_(projector.bias)
    runner.train()
    return runner, record


def test_starts_at_the_block_that_the_student_is_and_moves_when_cka_or_the_epochs_say(image_root, tmp_path):
    write_pair(tmp_path)
    settings = dict(threshold=0.999, max_epochs=2, interval=2)
    config = curriculum_config(image_root, tmp_path / 'work', settings, **{'train_cfg.max_epochs': 6})
    runner, record = run(copied_pair(config, tmp_path), identity=True)
    # 6 epochs of 3 iterations. The second iteration measures that block 1 is the student; on the others CKA is smaller, so
    # two epochs pass: the rest of the first one counts.
    assert record.blocks == paths(1, 1, 2, 2, 2, 2, *[3] * 6, *[4] * 6)
    measured = [cka for number, cka in enumerate(record.own) if number % 2 == 1]
    assert record.ckas[1::2] == pytest.approx(measured, rel=1e-4)
    assert record.ckas[2::2] == record.ckas[1:-1:2]
    assert measured[0] == pytest.approx(1, abs=1e-5)
    assert max(measured[1:]) < 0.999
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    moves = re.findall(r"model\.teacher\.taps\.patches is now '(\S+)', block (\d) of 0 to 4 \((.*)\)\.", log)
    assert [int(block) for _, block, _ in moves] == [1, 2, 3, 4]
    assert [path for path, _, _ in moves] == paths(1, 2, 3, 4)
    assert moves[0][2].startswith('CKA of all blocks: 0.98')
    assert [reason for _, _, reason in moves[1:]] == ['CKA 1.000', '2 epochs', '2 epochs']
    assert runner.message_hub.get_scalar('train/tap_block').current() == 4


MIXED = {'model.student.model.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8)])}


def trainable_pair(config):
    config.model.student.model.head.distilled_training = False
    config.model.student.model.backbone.drop_path_rate = 0.2
    return config


@pytest.mark.slow
def test_the_scan_changes_no_random_number_and_no_weight(image_root, tmp_path):
    settings = dict(threshold=2, max_epochs=None, interval=1)
    _, record = run(trainable_pair(curriculum_config(image_root, tmp_path / 'moved', settings, **MIXED)))
    assert len(set(record.blocks)) == 1
    assert len(set(record.ckas)) == 6
    assert record.ckas == pytest.approx(record.own, rel=1e-4)
    config = trainable_pair(curriculum_config(image_root, tmp_path / 'fixed', None, **MIXED))
    config.model.teacher.taps.patches = record.blocks[0]
    Runner.from_cfg(config).train()
    files = [torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True) for name in ('moved', 'fixed')]
    assert all(torch.equal(value, files[1]['state_dict'][name]) for name, value in files[0]['state_dict'].items())


ITERATIONS = {
    'train_cfg': dict(by_epoch=False, max_iters=8, val_interval=100),
    'train_dataloader.sampler': dict(type='InfiniteSampler'),
    'param_scheduler': [],
    'log_processor': dict(by_epoch=False),
    'default_hooks.logger.log_metric_by_epoch': False,
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 4,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'settings', 'saved', 'expected'),
    [
        # Two epochs of 3 iterations on a block, of which the first is before the checkpoint.
        ({'train_cfg.max_epochs': 3}, dict(paths=paths(2, 0, 1), max_epochs=2), 'epoch_1.pth', [2] * 6 + [0] * 3),
        (ITERATIONS, dict(start=0, threshold=0, interval=3), 'iter_4.pth', [0] * 3 + [1] * 3 + [2] * 2),
    ],
    ids=['epochs', 'iterations'],
)
def test_resuming_is_bit_exact(changes, settings, saved, expected, image_root, tmp_path):
    settings = {'threshold': 2, 'interval': 1, **settings}

    def train(name, **more):
        return run(trainable_pair(curriculum_config(image_root, tmp_path / name, settings, **MIXED, **changes, **more)))[1]

    whole = train('whole')
    assert whole.blocks == paths(*expected)
    (tmp_path / 'parts').mkdir()
    start = shutil.copy(tmp_path / 'whole' / saved, tmp_path / 'parts')
    resumed = train('parts', resume=True, load_from=str(start))
    assert 0 < len(resumed.blocks) < len(whole.blocks)
    assert resumed.blocks == whole.blocks[-len(resumed.blocks) :]
    assert resumed.ckas == whole.ckas[-len(resumed.ckas) :]
    assert_equal_files(tmp_path / 'parts', tmp_path / 'whole')


def two_teachers(root, work_dir, curriculum, **changes):
    """The config of a training with a second teacher, which is compiled, and whose tap moves."""
    config = trainable_pair(curriculum_config(root, work_dir, curriculum, **changes))
    fixed = config.model.pop('teacher')
    config.model.teachers = dict(fixed=fixed, moving=dict(copy.deepcopy(fixed), compile=dict(backend='eager')))
    tokens = config.model.views.pop('tokens')
    config.model.views = {name: dict(tokens, teacher=name) for name in config.model.teachers}
    config.model.losses = {
        'loss_fixed': dict(type='FeatureL2Loss', on='fixed'),
        'loss_feat': dict(type='FeatureL2Loss', on='moving'),
    }
    return config


@pytest.mark.slow
def test_one_of_two_teachers_moves_also_if_it_is_compiled_and_has_its_norm_applied(image_root, tmp_path):
    settings = dict(
        paths=BLOCKS + ' | backbone.pre_norm', teacher='moving', start=1, threshold=0, interval=2, max_epochs=None
    )
    config = two_teachers(image_root, tmp_path, settings, **{'train_cfg.max_epochs': 1})
    runner = Runner.from_cfg(config)
    teachers = runner.model.teachers
    assert teachers['moving'].taps.paths['patches'] == 'backbone.layers[-1]'
    runner.train()
    assert teachers['moving'].taps.paths['patches'] == 'backbone.layers[2] | backbone.pre_norm'
    assert teachers['fixed'].taps.paths['patches'] == 'backbone.layers[-1]'
    assert torch.load(tmp_path / 'epoch_1.pth', weights_only=True)['meta']['tap_curricula'] == {
        'moving.patches': {'path': 'backbone.layers[2] | backbone.pre_norm', 'epochs': 0}
    }
    hook = dict(type='TapCurriculumHook', tap='patches', loss='loss_feat', paths=BLOCKS)
    for wrong, message in {
        '': r'\.teacher is missing: name the one of model\.teachers',
        'movin': r"\.teacher='movin' is not one of model\.teachers\. Did you mean 'moving'",
        'fixed': r"\.loss='loss_feat' is not a loss that reads the tap 'patches' of this teacher.*'loss_fixed'",
    }.items():
        with pytest.raises(ConfigError, match='^custom_hooks: TapCurriculumHook' + message):
            HOOKS.build({**hook, 'teacher': wrong or None}).before_run(runner)
    inside = [BLOCKS.format(number) + '.ffn' for number in range(2)]
    with pytest.raises(ConfigError, match=r'paths\.0=.*lies inside a part of the model that is compiled as a whole'):
        HOOKS.build({**hook, 'teacher': 'moving', 'paths': inside}).before_run(runner)


def test_mistakes_are_named_before_the_first_step(image_root, tmp_path):
    runner = Runner.from_cfg(trainable_pair(curriculum_config(image_root, tmp_path, None)))
    right = dict(type='TapCurriculumHook', tap='patches', loss='loss_feat', paths=BLOCKS)
    assert HOOKS.build(right).before_run(runner) is None  # Not a training yet.
    assert runner.train_loop.iter == 0
    for wrong, message in [
        (dict(tap='patch'), r"\.tap='patch' is not a tap of model\.teacher that a loss reads\. Did you mean 'patches'"),
        (dict(loss='loss_kd'), r"\.loss='loss_kd' is not a loss that reads the tap 'patches'.*'loss_feat'"),
        (dict(teacher='dino'), r"\.teacher='dino' is not one of model\.teachers"),
        (dict(paths='backbone.layer[{}]'), r"\.paths='backbone\.layer': 'backbone' has no module 'layer'\. Did you mean"),
        (dict(paths='backbone.layers'), r'\.paths=.* must have one \[\{\}\]'),
        (dict(paths='backbone[{}]'), r"\.paths='backbone\[\{\}\]': 'backbone' is not a list of modules"),
        (dict(paths=paths(0, 3)), r"\.paths\.1='backbone\.layers\[3\]': .* has 3 modules, so there is no \[3\]"),
        (dict(paths=paths(1)), r'\.paths must name at least two different blocks'),
        (dict(start=3), r'\.start=3: there are 3 blocks, 0 to 2'),
        (dict(start='last'), r": start \(a number, or 'best'\) must be"),
        (dict(interval=0), ': interval must be a positive integer'),
        (dict(max_epochs=0), ': max_epochs must be a positive integer'),
        (dict(threshold=-1), ': threshold must be a finite number'),
    ]:
        with pytest.raises(ConfigError, match='custom_hooks: TapCurriculumHook' + message):
            HOOKS.build({**right, **wrong}).before_run(runner)
    runner.register_hook(HOOKS.build(dict(right, start=2, paths=['backbone.layers[0].ffn.layers[0]', *paths(0, 1)])))
    with pytest.raises(ConfigError, match=r"paths: the losses read .*16, 24\)\} at 'backbone\.layers\[0\]', but .*16, 48\)"):
        runner.train()
    assert runner.iter == 0
    runner.model.teachers.clear()
    with pytest.raises(ConfigError, match='moves a tap of a teacher, and this RelationDistiller has none'):
        HOOKS.build(right).before_run(runner)


def test_a_cache_is_refused_by_the_tool_and_by_the_hook(image_root, tmp_path):
    config = trainable_pair(curriculum_config(image_root, tmp_path / 'work', {}))
    with pytest.raises(ConfigError, match=r'^custom_hooks: TapCurriculumHook moves a tap .*Train without a cache'):
        build_source('c.py', 'name', config, 'cache', 1, 0)
    model = build_distiller()
    write_teacher_cache(tmp_path / 'cache', model, images(), distiller_config().teacher)
    runner = Runner.from_cfg(trainable_pair(curriculum_config(image_root, tmp_path, None)))
    assert runner.train_loop.iter == 0
    settings = distiller_config(teacher__cache=str(tmp_path / 'cache'))
    settings.data_preprocessor = dict(VIEW_PREPROCESSOR)
    runner.model = MODELS.build(settings)
    with pytest.raises(ConfigError, match=r'moves a tap of the teacher, which model\.teacher\.cache=.* does not build'):
        HOOKS.build(dict(type='TapCurriculumHook', tap='patches', loss='loss_feat', paths=BLOCKS)).before_run(runner)


def run_rank(root, folder, rank):
    """Train on one of two ranks, and save what it has seen."""
    os.environ['LOCAL_RANK'] = rank
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=int(rank), world_size=2)
    ranks = {
        'launcher': 'pytorch',
        'model_wrapper_cfg': {'type': 'MMDistributedDataParallel', 'device_ids': None},
        'train_dataloader.batch_size': 3,
    }
    backwards = paths(2, 1, 0)
    config = curriculum_config(root, f'{folder}/work', dict(paths=backwards, threshold=0.8, interval=1), **ranks, **MIXED)
    _, record = run(trainable_pair(config))
    torch.save({'blocks': record.blocks, 'ckas': record.ckas, 'own': record.own}, f'{folder}/{rank}.pth')
    leave_ranks()


@pytest.mark.slow
def test_ranks_move_together_by_their_mean(image_root, tmp_path):
    run_ranks(__file__, 2, image_root, tmp_path)
    one, other = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(2))
    assert one['blocks'] == other['blocks']
    assert one['ckas'] == other['ckas']
    assert one['ckas'] == pytest.approx([(x + y) / 2 for x, y in zip(one['own'], other['own'], strict=True)], rel=1e-4)
    block, expected = paths(2, 1, 0).index(one['blocks'][0]), []
    for cka in one['ckas']:
        expected.append(block)
        block = min(block + (cka >= 0.8), 2)
    assert one['blocks'] == [paths(2, 1, 0)[number] for number in expected]


if __name__ == '__main__':
    run_rank(*sys.argv[1:])
