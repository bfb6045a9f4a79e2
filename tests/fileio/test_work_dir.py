"""Which checkpoint a run starts from, and which runs are refused."""

import os
from pathlib import Path

import pytest

from serkd_mm.fileio import WorkDirError, latest_checkpoint
from serkd_mm.fileio.work_dir import announce_first_checkpoint, checkpoint_folder, find_start, newest_checkpoint


def write(folder, *names, last=None):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    if last is not None:
        (folder / 'last_checkpoint').write_text(str(last))
    return folder


def test_last_checkpoint_is_found_in_a_moved_and_in_a_copied_folder(tmp_path):
    work = write(tmp_path / 'work', 'epoch_1.pth', last=tmp_path / 'work' / 'epoch_1.pth')
    copy = write(tmp_path / 'copy', 'epoch_1.pth', last=tmp_path / 'work' / 'epoch_1.pth')
    moved = write(tmp_path / 'moved', 'epoch_1.pth', last='/there/is/no/epoch_1.pth')
    for folder in (work, copy, moved):
        assert latest_checkpoint(folder) == find_start(folder, folder, resume=True) == str(folder / 'epoch_1.pth')
    elsewhere = write(tmp_path / 'elsewhere', last=work / 'epoch_1.pth')  # With out_dir.
    assert latest_checkpoint(elsewhere) == str(work / 'epoch_1.pth')
    assert latest_checkpoint(write(tmp_path / 'remote', last='s3://runs/epoch_1.pth')) == 's3://runs/epoch_1.pth'
    assert latest_checkpoint(write(tmp_path / 'empty', 'epoch_1.pth', last='')) is None


def test_run_that_was_killed_before_it_named_its_first_checkpoint_resumes_from_it(tmp_path):
    folder = write(tmp_path / 'work')
    announce_first_checkpoint(folder)
    assert find_start(folder, folder, resume=True) is None
    write(folder, 'epoch_1.pth')
    assert find_start(folder, folder, resume=True) == str(folder / 'epoch_1.pth')
    with pytest.raises(WorkDirError, match='would overwrite'):
        find_start(folder, folder)
    write(folder, last='epoch_1.pth')
    announce_first_checkpoint(folder)
    assert latest_checkpoint(folder) == str(folder / 'epoch_1.pth')
    best = write(tmp_path / 'best', 'best_loss_epoch_3.pth', last='')
    with pytest.raises(WorkDirError, match='start from the beginning with --overwrite'):
        find_start(best, best, resume=True)


def test_newest_checkpoint_is_found_by_its_number(tmp_path):
    folder = write(
        tmp_path / 'work', 'epoch_10.pth', 'epoch_9.pth', 'epoch_1.pth', 'best_accuracy_top1_epoch_11.pth', 'a.pth'
    )
    assert newest_checkpoint(folder).name == 'epoch_10.pth'
    write(folder, 'iter_5.pth')
    os.utime(folder / 'iter_5.pth', (2**33, 2**33))
    assert newest_checkpoint(folder).name == 'iter_5.pth'
    assert newest_checkpoint(write(tmp_path / 'best', 'best_loss_epoch_3.pth')).name == 'best_loss_epoch_3.pth'
    assert newest_checkpoint(write(tmp_path / 'other', 'teacher.pth')) is None
    assert newest_checkpoint(tmp_path / 'none') is None


def test_folder_of_the_checkpoints():
    assert checkpoint_folder('work/run') == checkpoint_folder('work/run/', None)
    assert str(checkpoint_folder('work/run/', 'disk')) == 'disk/run'
    assert checkpoint_folder('work/run', 's3://runs') is None
    assert checkpoint_folder('work/run', os.path.abspath('work/run')) == Path('work/run')  # No folder inside it.


@pytest.mark.parametrize(
    ('last', 'settings', 'reason'),
    [
        (None, {}, 'holds checkpoints, which this run would overwrite'),
        ('epoch_2.pth', {}, 'holds checkpoints, which this run would overwrite'),
        ('epoch_2.pth', dict(load_from='zoo.pth'), 'holds checkpoints, which this run would overwrite'),
        ('epoch_2.pth', dict(resume=True, load_from='other/epoch_1.pth'), 'other/epoch_1.pth is not one of them'),
        (None, dict(resume=True), 'last_checkpoint does not exist'),
        ('epoch_3.pth', dict(resume=True), 'last_checkpoint names epoch_3.pth, which does not exist'),
    ],
)
def test_run_that_would_overwrite_checkpoints_is_refused(last, settings, reason, tmp_path):
    folder = write(tmp_path / 'work', 'epoch_1.pth', 'epoch_2.pth', last=last)
    with pytest.raises(WorkDirError, match=reason) as error:
        find_start(folder, folder, **settings)
    choices = f'continue with --resume {folder}/epoch_2.pth, choose another --work-dir, or start .* with --overwrite$'
    error.match(f'The newest is {folder}/epoch_2.pth. Choose: {choices}')
    start = settings.get('load_from') if settings.get('resume') else None
    assert find_start(folder, folder, overwrite=True, **settings) == start


def test_runs_that_overwrite_nothing_start(tmp_path):
    folder = write(tmp_path / 'work', 'epoch_1.pth', 'epoch_2.pth', last='epoch_2.pth')
    first = str(folder / 'epoch_1.pth')
    assert find_start(folder, folder, resume=True, load_from=first) == first
    (tmp_path / 'link').symlink_to(folder)
    assert find_start(tmp_path / 'link', tmp_path / 'link', resume=True, load_from=first) == first
    assert find_start(folder, None) is None
    new = write(tmp_path / 'new', 'teacher.pth')
    assert find_start(new, new) is find_start(new, new, resume=True) is find_start(new, new, load_from=first) is None
    assert find_start(new, new, resume=True, load_from=first) == first


def test_best_checkpoint_alone_is_not_a_choice_to_continue_with(tmp_path):
    folder = write(tmp_path / 'work', 'best_loss_epoch_3.pth')
    with pytest.raises(WorkDirError, match=r'newest is .*best_loss_epoch_3\.pth\. Choose: choose another') as error:
        find_start(folder, folder)
    assert '--resume' not in str(error.value)
