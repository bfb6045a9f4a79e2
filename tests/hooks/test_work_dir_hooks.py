"""What a run does in a work folder that another run has used, is using, or has been copied to."""

import shutil
from pathlib import Path

import pytest
import torch
from builders import training_config
from mmengine.runner import Runner, find_latest_checkpoint

from serkd_mm.fileio import WorkDirError
from serkd_mm.fileio.run_lock import RunLock
from serkd_mm.fileio.work_dir import announce_first_checkpoint, find_start

pytestmark = pytest.mark.usefixtures('runner_scope')


def start(image_root, work_dir, epochs=1, **changes):
    """Return the runner of a training that evaluates by the loss, so that every epoch is a best one."""
    config = training_config(image_root, work_dir, **{'train_cfg.max_epochs': epochs, **changes})
    config.default_hooks.checkpoint.rule = 'less'
    return Runner.from_cfg(config)


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def info(folder, epoch):
    return torch.load(folder / f'epoch_{epoch}.pth', weights_only=True)['message_hub']['runtime_info']


@pytest.fixture(scope='module')
def trained(image_root, tmp_path_factory):
    """The work folder of a run of one epoch."""
    work_dir = tmp_path_factory.mktemp('trained') / 'work'
    config = training_config(image_root, work_dir, **{'train_cfg.max_epochs': 1})
    config.default_hooks.checkpoint.rule = 'less'
    Runner.from_cfg(config).train()
    return work_dir


@pytest.fixture
def used(trained, tmp_path):
    """A copy of that folder; its ``last_checkpoint`` and checkpoint hold the paths of the original."""
    return shutil.copytree(trained, tmp_path / 'used')


def test_run_in_a_copied_folder_continues_and_leaves_the_original_alone(trained, used, image_root):
    saved = {path.name: path.read_bytes() for path in trained.glob('*.pth')}
    shutil.copyfile(used / 'best_accuracy_top1_epoch_1.pth', used / 'mine.pth')
    runner = start(image_root, used, epochs=2, resume=True)
    # Whatever epoch 2 reaches is better, so the best checkpoint of epoch 1 is replaced.
    checkpoint = torch.load(used / 'epoch_1.pth', weights_only=True)
    assert checkpoint['message_hub']['runtime_info']['best_ckpt'].startswith(str(trained))
    checkpoint['message_hub']['runtime_info']['best_score'] = 1e9
    torch.save(checkpoint, used / 'epoch_1.pth')
    (used / '.epoch_1.pth.1-a.partial').touch()  # Of a process that was killed.
    (used / '.epoch_2.pth.partial').touch()  # The same, of version 0.2.
    runner.train()
    assert not list(used.glob('.*'))
    assert runner.iter == 6
    assert names(used) == ['best_accuracy_top1_epoch_2.pth', 'epoch_1.pth', 'epoch_2.pth', 'mine.pth']
    assert info(used, 2)['best_ckpt'] == str(used / 'best_accuracy_top1_epoch_2.pth')
    assert {path.name: path.read_bytes() for path in trained.glob('*.pth')} == saved
    assert Path((used / 'last_checkpoint').read_text()) == used / 'epoch_2.pth'
    assert not (used / 'run.lock').exists()


@pytest.mark.slow
def test_run_resumed_from_another_run_saves_a_best_checkpoint_of_its_own(trained, image_root, tmp_path):
    saved = {path.name: path.read_bytes() for path in trained.glob('*.pth')}
    runner = start(image_root, tmp_path / 'b', epochs=2, resume=True, load_from=str(trained / 'epoch_1.pth'))
    runner.train()
    assert runner.iter == 6
    assert names(tmp_path / 'b') == ['best_accuracy_top1_epoch_2.pth', 'epoch_2.pth']
    assert {path.name: path.read_bytes() for path in trained.glob('*.pth')} == saved


@pytest.mark.parametrize('version', ['this', '0.6.0'])
def test_run_that_was_killed_before_its_first_checkpoint_starts_again(version, image_root, tmp_path):
    if version == 'this':
        announce_first_checkpoint(tmp_path)
        assert find_latest_checkpoint(str(tmp_path)) is None  # Also without WorkDirCheckHook, mmengine starts again.
    else:
        (tmp_path / 'last_checkpoint').touch()
    runner = start(image_root, tmp_path, epochs=1, resume=True)
    runner.train()
    assert runner.iter == 3
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('resume', [False, True])
def test_start_that_would_overwrite_is_refused(resume, used, image_root):
    (used / 'last_checkpoint').unlink()
    before = {path.name: path.read_bytes() for path in used.glob('*.pth')}
    with pytest.raises(WorkDirError, match=f'The newest is {used}/epoch_1.pth'):
        start(image_root, used, resume=resume).train()
    assert {path.name: path.read_bytes() for path in used.glob('*.pth')} == before


@pytest.mark.slow
def test_overwrite_starts_from_the_beginning(used, image_root):
    before = {path.name: path.read_bytes() for path in used.glob('*.pth')}
    config = training_config(image_root, used, **{'train_cfg.max_epochs': 1})
    (check,) = [hook for hook in config.custom_hooks if hook.type == 'WorkDirCheckHook']
    check.overwrite = True
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 3
    assert (used / 'epoch_1.pth').read_bytes() != before['epoch_1.pth']
    (aside,) = used.glob('overwritten_*')
    assert {path.name: path.read_bytes() for path in aside.glob('*.pth')} == before
    assert len(list(aside.glob('*/vis_data/scalars.json'))) == len(list(used.glob('*/vis_data/scalars.json'))) == 1
    with pytest.raises(WorkDirError, match=r'The newest is \S+/epoch_1\.pth'):
        find_start(used, used)
    runner.test()  # Evaluates in the used folder.


def test_run_that_has_lost_its_lock_saves_nothing_more(image_root, tmp_path):
    runner = start(image_root, tmp_path, epochs=2)
    save = runner.save_checkpoint

    def lose_the_lock(*args, **kwargs):
        save(*args, **kwargs)
        (tmp_path / 'run.lock').unlink()
        RunLock(tmp_path / 'run.lock').acquire(print)

    runner.save_checkpoint = lose_the_lock
    with pytest.raises(WorkDirError, match='was suspended'):
        runner.train()
    assert names(tmp_path) == ['epoch_1.pth']
