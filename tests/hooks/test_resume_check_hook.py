"""What a run may resume from, and what is said about the rest."""

import re
import shutil

import pytest
import torch
from builders import training_config
from mmengine.runner import Runner

from serkd_mm.hooks import ResumeError

pytestmark = pytest.mark.usefixtures('runner_scope')

RRD = {'model.losses.loss_rrd': {'type': 'RRDLoss', 'on': 'tokens', 'queue_size': 10, 'embed_dim': 8}}
QUEUE = 'distill.losses.loss_rrd.patches.queue'
WITHOUT_VALIDATION = {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}


@pytest.fixture(scope='module')
def trained(image_root, tmp_path_factory):
    """The work folder of one epoch with RRD, whose queue has wrapped around: 12 images in 10 slots."""
    work_dir = tmp_path_factory.mktemp('trained')
    Runner.from_cfg(training_config(image_root, work_dir, **RRD, **{'train_cfg.max_epochs': 1})).train()
    return work_dir


def runner_of(root, trained, tmp_path, resume=True, hook=None, file='epoch_1.pth', **changes):
    """A runner of two epochs that resumes from or loads a file of the trained folder."""
    if not (tmp_path / file).exists():
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(trained / file, tmp_path / file)
    changes = {**RRD, **WITHOUT_VALIDATION, **changes}
    config = training_config(root, tmp_path / 'work', resume=resume, load_from=str(tmp_path / file), **changes)
    next(entry for entry in config.custom_hooks if entry.type == 'ResumeCheckHook').update(hook or {})
    return Runner.from_cfg(config)


def edit(trained, tmp_path, change):
    checkpoint = torch.load(trained / 'epoch_1.pth', weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')


def warnings_of(runner):
    messages = []
    runner.logger.warning = messages.append
    runner.train()
    return '\n'.join(messages)


def test_best_checkpoint_without_optimizer_state_is_refused(image_root, trained, tmp_path):
    (best,) = trained.glob('best_*.pth')
    runner = runner_of(image_root, trained, tmp_path, file=best.name)
    with pytest.raises(ResumeError, match=rf'{re.escape(best.name)}.*no state of the optimizer.*epoch_\*\.pth.*load_from='):
        runner.train()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'train_dataloader.batch_size': 2}, '4 and 2 images per rank .*, 3 and 6 iterations per epoch'),
        ({'optim_wrapper.accumulative_counts': 3}, '1 and 3 accumulated iterations'),
    ],
)
def test_another_batch_size_or_accumulation_is_refused_with_both_numbers(changes, message, image_root, trained, tmp_path):
    with pytest.raises(ResumeError, match=rf'epoch_1\.pth.*{message}.*--resume-elastic'):
        runner_of(image_root, trained, tmp_path, **changes).train()


def test_another_number_of_ranks_is_refused_with_both_numbers(image_root, trained, tmp_path):
    edit(trained, tmp_path, lambda checkpoint: checkpoint['meta']['training_setup'].update(num_ranks=8))
    with pytest.raises(ResumeError, match='8 and 1 ranks'):
        runner_of(image_root, trained, tmp_path).train()


def test_checkpoint_that_does_not_record_its_setup_is_resumed_with_a_warning(image_root, trained, tmp_path):
    edit(trained, tmp_path, lambda checkpoint: checkpoint['meta'].pop('training_setup'))
    runner = runner_of(image_root, trained, tmp_path, **{'train_cfg.max_epochs': 1})
    assert 'epoch_1.pth does not record the number of ranks' in warnings_of(runner)


def test_checkpoint_from_inside_an_epoch_is_refused(image_root, trained, tmp_path):
    edit(trained, tmp_path, lambda checkpoint: checkpoint['meta'].update(iter=4))
    with pytest.raises(ResumeError, match='iteration 4 after 1 epochs, which is not the end of an epoch of 3 iterations'):
        runner_of(image_root, trained, tmp_path).train()


@pytest.mark.slow
def test_elastic_resuming_continues_schedule_and_position(image_root, trained, tmp_path):
    changes = {
        'train_dataloader.batch_size': 2,
        'train_cfg.max_epochs': 3,
        'param_scheduler': [
            {'type': 'LinearLR', 'start_factor': 0.1, 'end': 2, 'convert_to_iter_based': True},
            {'type': 'MultiStepLR', 'milestones': [2], 'by_epoch': True},
            {'type': 'CosineAnnealingLR', 'by_epoch': False, 'begin': 3, 'T_max': 15},
        ],
        'auto_scale_lr': {'base_batch_size': 8, 'enable': True},
    }
    rates = []
    whole = training_config(image_root, tmp_path / 'whole', **RRD, **WITHOUT_VALIDATION, **changes)
    resumed = runner_of(image_root, trained, tmp_path / 'resumed', hook={'elastic': True}, **changes)
    assert '4 and 2 images per rank' in warnings_of(resumed)
    for runner in (Runner.from_cfg(whole), resumed):
        if runner is not resumed:
            runner.train()
        assert runner.iter == 18
        rates.append(runner.message_hub.get_scalar('train/lr').data[0][-12:])
        rates.append(runner.message_hub.get_scalar('train/base_lr').data[0][-12:])
    assert len(set(rates[0])) > 6
    assert rates[2] == pytest.approx(rates[0])
    assert rates[3] == pytest.approx(rates[1])


def test_elastic_resuming_refuses_what_it_cannot_continue(image_root, trained, tmp_path):
    plateau = {'type': 'ReduceOnPlateauLR', 'monitor': 'accuracy/top1', 'rule': 'greater'}
    changes = {'train_dataloader.batch_size': 2, 'param_scheduler': [plateau]}
    with pytest.raises(ResumeError, match=r'--resume-elastic .*4 and 2 images .*validation results'):
        runner_of(image_root, trained, tmp_path, hook={'elastic': True}, **changes).train()


MISFITS = [
    ({'model.losses.loss_new': {'type': 'FeatureL2Loss', 'on': 'tokens'}}, 'loss_new.patches.projector.weight is missing'),
    ({'model.losses.loss_rrd': None}, f'{QUEUE} is not part of this model'),
    ({'model.losses.loss_rrd.embed_dim': 4}, rf'{QUEUE} has shape \(10, 8\) in the file and \(10, 4\) in this model'),
]


@pytest.mark.parametrize(('changes', 'message'), MISFITS)
def test_distillation_entries_that_do_not_fit_are_refused_when_resuming(changes, message, image_root, trained, tmp_path):
    with pytest.raises(ResumeError, match=rf'epoch_1\.pth: the file belongs to another model.*{message}'):
        runner_of(image_root, trained, tmp_path, **changes).train()


def test_distillation_entries_that_do_not_fit_are_reported_by_load_from(image_root, trained, tmp_path):
    runner = runner_of(image_root, trained, tmp_path, resume=False, **MISFITS[2][0], **{'train_cfg.max_epochs': 1})
    loss, messages = runner.model.distill.losses.loss_rrd.patches, []
    runner.logger.warning = messages.append
    stop_at_first_batch(loss, runner)
    assert re.search(MISFITS[2][1], '\n'.join(messages))
    assert loss.num_enqueued == 0


def test_plain_student_is_loaded_without_a_word(image_root, trained, tmp_path):
    def keep_student(checkpoint):
        weights = checkpoint['state_dict']
        checkpoint['state_dict'] = {name: value for name, value in weights.items() if not name.startswith('distill.')}

    edit(trained, tmp_path, keep_student)
    runner, messages = runner_of(image_root, trained, tmp_path, resume=False), []
    runner.logger.warning = messages.append
    stop_at_first_batch(runner.model.distill.losses.loss_rrd.patches, runner)
    assert 'distill' not in '\n'.join(messages)


@pytest.mark.parametrize('resume', [True, False], ids=['resume', 'load_from'])
def test_resized_queue_of_a_checkpoint_has_no_empty_rows_as_memories(resume, image_root, trained, tmp_path):
    before = torch.load(trained / 'epoch_1.pth', weights_only=True)['state_dict']
    runner = runner_of(image_root, trained, tmp_path, resume=resume, **{'model.losses.loss_rrd.queue_size': 30})
    loss = runner.model.distill.losses.loss_rrd.patches
    stop_at_first_batch(loss, runner)
    assert loss.num_enqueued == 10
    assert torch.equal(loss.queue[:10], before[QUEUE].roll(-2, 0))  # Of 12 embeddings the first was overwritten in slot 2.
    assert not loss.queue[10:].any()


class FirstBatch(Exception):
    """Everything is loaded, and the first batch is about to be compared."""


def stop_at_first_batch(loss, runner):
    def stop(*_):
        raise FirstBatch

    loss.register_forward_pre_hook(stop)
    with pytest.raises(FirstBatch):
        runner.train()
