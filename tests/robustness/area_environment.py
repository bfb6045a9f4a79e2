"""Attempts with unusual work folders, environments and worker processes."""

import os
import resource
import stat
from pathlib import Path

from area_training import CallInIteration, train_with
from builders import REPOSITORY
from judging import Act, check, refused, works, works_or_refused
from starting import python, train, training_file


def in_folder(make) -> Act:
    """Train in a work folder that ``make(folder)`` returns, and resume there."""

    def act(folder: Path) -> None:
        name = make(folder)
        train(folder, name, train_cfg__max_epochs=1)
        runner = train(folder, name, resume=True)
        check(runner.iter == 6 and (folder / name / 'epoch_2.pth').is_file(), 'the run did not resume')

    return act


def linked(folder: Path) -> str:
    (folder / 'disk').mkdir()
    (folder / 'link').symlink_to(folder / 'disk')
    return 'link/run'


def unwritable(folder: Path) -> None:
    (folder / 'file').touch()
    train(folder, 'file/work')


def restricted(folder: Path) -> None:
    os.umask(0o077)
    train(folder)
    check(stat.S_IMODE((folder / 'work' / 'epoch_2.pth').stat().st_mode) == 0o600, 'others may read the checkpoint')


def moved(folder: Path) -> None:
    """The working directory changes while a run with relative paths trains."""
    (folder / 'elsewhere').mkdir()
    config = training_file(folder)
    config.work_dir = 'work'
    train_with(CallInIteration(lambda runner: os.chdir('elsewhere'), at=2), config)
    check((folder / 'work' / 'epoch_2.pth').is_file(), 'a checkpoint is missing')
    check(not list((folder / 'elsewhere').rglob('*.pth')), 'checkpoints are elsewhere')


def without(*names: str, **environment: str) -> Act:
    """Train in an environment without some variables, and with others."""

    def act(folder: Path) -> None:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(environment)
        train(folder)

    return act


def closed_input(folder: Path) -> None:
    os.close(0)
    train(folder)


def few_files(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    train(folder, train_dataloader__num_workers=2)


def c_locale(folder: Path) -> None:
    config = training_file(folder, 'größe 學')
    (folder / 'images' / 'class0').rename(folder / 'images' / 'class0_ü學')
    config.dump(folder / 'config.py')
    locale = dict(LC_ALL='C', LANG='C')
    python(REPOSITORY / 'tools' / 'train.py', folder / 'config.py', **locale)
    check((folder / 'größe 學' / 'epoch_2.pth').is_file(), 'no checkpoint')


def start_method(name: str) -> Act:
    """Worker processes that are not forked get the pipelines by pickle."""

    def act(folder: Path) -> None:
        config = training_file(folder, train_dataloader__num_workers=1)
        config.env_cfg.mp_cfg.mp_start_method = name
        config.dump(folder / 'config.py')
        python(REPOSITORY / 'tools' / 'train.py', folder / 'config.py', '--no-validate')
        check((folder / 'work' / 'epoch_2.pth').is_file(), 'no checkpoint')

    return act


ATTEMPTS = [
    works('a work folder with spaces, quotes and unicode', in_folder(lambda f: "my 'run' größe 學 100%")),
    works('a work folder behind a link', in_folder(linked)),
    works('a work folder 1,000 characters deep', in_folder(lambda f: '/'.join(['deep' * 10] * 25))),
    works('a hidden work folder', in_folder(lambda f: '.runs/{epoch}')),
    refused('a work folder with a name of 300 characters', in_folder(lambda f: 'x' * 300), 'xxx'),
    refused('a work folder below a file', unwritable, 'file'),
    works('umask 077', restricted),
    works('the working directory changes', moved),
    works('no HOME, no USER, no terminal', without('HOME', 'USER', 'LOGNAME', 'TERM')),
    works('TMPDIR does not exist', without(TMPDIR='/nonexistent', TEMP='/nonexistent')),
    works('the cache of torch is unwritable', without(TORCH_HOME='/proc/nowhere', XDG_CACHE_HOME='/proc/nowhere')),
    works('standard input is closed', closed_input),
    works_or_refused('64 open files', few_files, 'open files'),
    works('LC_ALL=C with unicode folders', c_locale, seconds=120),
    works('workers by spawn', start_method('spawn'), seconds=180),
    works('workers by forkserver', start_method('forkserver'), seconds=180),
]
