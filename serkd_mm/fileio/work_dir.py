"""What a work folder holds: its checkpoints, and the one that a run continues from."""

import os
import re
import shutil
import time
from pathlib import Path

from ..errors import UserError

_STEP = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
_ANNOUNCEMENT = '.first_checkpoint_to_come'


class WorkDirError(UserError, RuntimeError):
    """A run cannot use its work folder. The message names the folder or a file in it, and the choices."""


def checkpoint_folder(work_dir: str | Path, out_dir: str | Path | None = None) -> Path | None:
    """Return the folder of the checkpoints of a run.

    Args:
        work_dir: The work folder of the run.
        out_dir: The setting of the checkpoint hook. Default: None, the work folder itself.

    Returns:
        The folder, None if it is not on a file system of this machine.
    """
    if out_dir is None or str(out_dir) == os.path.abspath(work_dir):  # As mmengine's CheckpointHook compares them.
        return Path(work_dir)
    return None if '://' in str(out_dir) else Path(out_dir) / Path(work_dir).name


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """Return the checkpoint that ``last_checkpoint`` names, also if the folder has been moved or copied.

    Args:
        work_dir: The work folder of a run.

    Returns:
        The path; None if no such file exists.
    """
    named = _named_as_last(work_dir)
    if not named:
        return None
    beside = Path(work_dir) / Path(named).name  # An absolute path is wrong as soon as the folder has another name.
    if beside.exists():
        return str(beside)
    return named if '://' in named or Path(named).exists() else None


def newest_checkpoint(folder: str | Path) -> Path | None:
    """Return the checkpoint of the last epoch or iteration in a folder, or a best one if there is no other."""
    steps = {path: int(match[1]) for path in Path(folder).glob('*.pth') if (match := _STEP.fullmatch(path.name))}
    if steps:
        # By number, because copying changes the times; epochs and iterations are compared by time.
        last_of_kind = {path.name.split('_')[0]: path for path in sorted(steps, key=steps.get)}
        return max(last_of_kind.values(), key=lambda path: path.stat().st_mtime)
    return max(Path(folder).glob('best_*.pth'), key=lambda path: path.stat().st_mtime, default=None)


def find_start(
    work_dir: str | Path,
    folder: str | Path | None,
    resume: bool = False,
    load_from: str | None = None,
    overwrite: bool = False,
) -> str | None:
    """Return the checkpoint that a run resumes from, and refuse a run that would overwrite others.

    Args:
        work_dir: The work folder.
        folder: The folder of the checkpoints; None is not checked.
        resume: Whether the run resumes. Default: False.
        load_from: The checkpoint that the run resumes from or, without ``resume``, starts with. Default: None, the last one
            in the work folder.
        overwrite: Start from the beginning although there are checkpoints. Default: False.

    Returns:
        The checkpoint; None if the run starts from the beginning.

    Raises:
        WorkDirError: The run would overwrite checkpoints.
    """
    if resume and load_from and (folder is None or is_in(load_from, folder)):
        return load_from
    if resume and not load_from:
        latest = latest_checkpoint(work_dir)
        if latest is not None:
            return latest
    newest = None if folder is None else newest_checkpoint(folder)
    if resume and not load_from and newest is not None and _STEP.fullmatch(newest.name) and _is_announced(work_dir):
        return str(newest)
    lost = _named_as_last(work_dir) if resume and not load_from else None
    if overwrite or (newest is None and not lost):
        return load_from if resume else None
    reason = f'{folder} holds checkpoints, which this run would overwrite'
    if resume and not load_from:
        last = Path(work_dir) / 'last_checkpoint'
        names = f'names {lost}, which does not exist' if lost else 'is empty' if last.is_file() else 'does not exist'
        reason = f'{last} {names}, so this run would start from the beginning'
    elif resume:
        reason = f'{reason}: {load_from} is not one of them'
    choices = ['choose another --work-dir', 'start from the beginning with --overwrite']
    if newest is not None:
        reason = f'{reason}. The newest is {newest}'
        if _STEP.fullmatch(newest.name):
            choices.insert(0, f'continue with --resume {newest}')
    raise WorkDirError(f'{reason}. Choose: {", ".join(choices[:-1])}, or {choices[-1]}')


def set_aside(work_dir: str | Path, folder: str | Path, own_logs: str | Path) -> Path | None:
    """Move the checkpoints and logs of an earlier run into a new folder, so that they do not mix with those of this run.

    Args:
        work_dir: The work folder.
        folder: The folder of the checkpoints.
        own_logs: The log folder of this run, which stays.

    Returns:
        The new folder ``overwritten_TIME`` in the work folder; None if there was nothing to move.
    """
    files = [path for path in Path(folder).glob('*.pth') if _STEP.fullmatch(path.name) or path.name.startswith('best_')]
    logs = [path.parent for path in Path(work_dir).glob('*/vis_data') if path.parent.resolve() != Path(own_logs).resolve()]
    if not files and not logs:
        return None
    target = Path(work_dir) / f'overwritten_{time.strftime("%Y%m%d_%H%M%S")}'
    target.mkdir(exist_ok=True)
    for path in [*files, *logs]:
        shutil.move(path, target / path.name)
    return target


def announce_first_checkpoint(work_dir: str | Path) -> None:
    """Write a file which says that a run saves in this folder, and has not named a checkpoint in ``last_checkpoint`` yet.

    A run that is killed between its first checkpoint and ``last_checkpoint`` then resumes from that checkpoint. It is a file
    of its own because mmengine would resume from an empty ``last_checkpoint``, and fail.
    """
    if not _named_as_last(work_dir):
        (Path(work_dir) / _ANNOUNCEMENT).touch()


def withdraw_announcement(work_dir: str | Path) -> None:
    """Remove that file: ``last_checkpoint`` names a checkpoint."""
    (Path(work_dir) / _ANNOUNCEMENT).unlink(missing_ok=True)


def _is_announced(work_dir: str | Path) -> bool:
    """Whether a run has announced its first checkpoint, and has not named it yet."""
    by_earlier_versions = Path(work_dir) / 'last_checkpoint'
    is_written = (Path(work_dir) / _ANNOUNCEMENT).is_file() or by_earlier_versions.is_file()
    return is_written and not _named_as_last(work_dir)


def _named_as_last(work_dir: str | Path) -> str:
    """Return what ``last_checkpoint`` says, '' without such a file."""
    file = Path(work_dir) / 'last_checkpoint'
    return file.read_text(encoding='utf-8').strip() if file.is_file() else ''


def is_in(file: str, folder: str | Path) -> bool:
    """Whether a file, links resolved, is directly in a folder."""
    return Path(file).resolve().parent == Path(folder).resolve()
