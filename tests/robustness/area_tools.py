"""Attempts with unusual command lines and checkpoints."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from builders import REPOSITORY
from judging import Act, check, refused, works
from starting import check_equal, failure, python, tool, train, training_file, weights

LINE = 'x = = 3\n'
TOOLS_WITH_CONFIG = ['train.py', 'test.py', 'describe.py', 'visualization/vis_superpixels.py']
REST = {'test.py': ['none.pth'], 'visualization/vis_superpixels.py': ['images']}


def config(folder: Path, name: str = 'config.py', edit=None, **changes) -> Path:
    """Write the images and the config of a training of one epoch; return its path."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    training_file(folder, edit=edit, **{'train_cfg__max_epochs': 1, **changes}).dump(file)
    return file


def every(write) -> Act:
    """Start every tool that reads a config with what ``write(folder)`` returns; the message of each is judged together."""

    def act(folder: Path) -> None:
        path, messages = write(folder), []
        for name in TOOLS_WITH_CONFIG:
            try:
                tool(name, path, *REST.get(name, []))
            except Exception as error:
                if not getattr(error, 'is_ours', False):
                    raise
                messages.append(str(error))
            else:
                check(False, f'{name} accepts it')
        unnamed = [message for message in messages if Path(path).name not in message]
        raise failure('\n'.join(unnamed or messages[:1]))

    return act


def nothing(folder: Path) -> Path:
    return folder / 'missing.py'


def a_folder(folder: Path) -> Path:
    (folder / 'folder.py').mkdir()
    return folder / 'folder.py'


def content(data: bytes, name: str = 'broken.py'):
    """Return a function that writes a file."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def options(*settings: str) -> Act:
    """Train with --cfg-options."""
    return lambda folder: tool('train.py', config(folder), '--cfg-options', *settings) and None


def trained(*arguments: object, make=config, environment: dict | None = None, **settings) -> Act:
    """Train by the tool, and look for the checkpoint."""

    def act(folder: Path) -> None:
        file = make(folder, **settings)
        shown = [str(argument).replace('FOLDER', str(folder)) for argument in arguments]
        tool('train.py', file, *shown, **(environment or {}))
        check((folder / 'work' / 'epoch_1.pth').is_file(), 'no checkpoint')

    return act


def elsewhere(folder: Path) -> None:
    config(folder)
    (folder / 'a' / 'b').mkdir(parents=True)
    tool('train.py', '../../config.py', cwd=folder / 'a' / 'b')
    check((folder / 'work' / 'epoch_1.pth').is_file(), 'no checkpoint')


def linked_config(folder: Path) -> Path:
    config(folder, 'deep/real.py')
    (folder / 'link.py').symlink_to(folder / 'deep' / 'real.py')
    return folder / 'link.py'


def quoted(folder: Path) -> None:
    names = ["model.losses.loss_kd.tau='2.0'", 'model.views.superpixels.merger.cell="(1,2)"', 'train_cfg.val_interval=5']
    tool('train.py', config(folder), '--cfg-options', *names)
    (dumped,) = (folder / 'work').glob('config.py')
    check('cell=(' in dumped.read_text().replace('\n', '').replace(' ', ''), 'the cell is no tuple')


def work_dir_is_a_file(folder: Path) -> None:
    (folder / 'busy').touch()
    tool('train.py', config(folder), '--work-dir', folder / 'busy')


def compared(*arguments: str) -> Act:
    """Compare runs; ``work`` is one."""

    def act(folder: Path) -> None:
        train(folder, train_cfg__max_epochs=1)
        (folder / 'file').touch()
        (folder / 'empty').mkdir()
        tool('compare.py', *arguments)
        check((folder / 'work_dirs' / 'compare' / 'compare.md').is_file(), 'no table')

    return act


def drawn(*arguments: str, images: str = 'images/class0/0.jpg') -> Act:
    """Draw the superpixels of an image."""

    def act(folder: Path) -> None:
        file = config(folder)
        shutil.copyfile(folder / 'images' / 'class0' / '0.jpg', folder / 'images' / 'größe 學.jpg')
        (folder / 'nothing').mkdir()
        tool('visualization/vis_superpixels.py', file, images, '--out-dir', 'out dir', *arguments)
        check(list((folder / 'out dir').rglob('*.png')), 'no drawing')

    return act


def no_device(folder: Path) -> None:
    file = config(folder)
    python(REPOSITORY / 'tools/visualization/vis_superpixels.py', file, 'images/class0/0.jpg', '--device', 'cuda:7')


def digits_again(folder: Path) -> None:
    tool('experiments/make_digits.py', folder / 'digits')
    before = sum(1 for _ in (folder / 'digits').rglob('*.png'))
    check(before == 1797 + 100, f'{before} images')
    tool('experiments/make_digits.py', folder / 'digits')


def shell(script: str, *arguments: object, **environment: str) -> None:
    """Start a shell script of this package."""
    settings = {**os.environ, 'PYTHON': sys.executable, 'PYTHONWARNINGS': 'ignore', **environment}
    command = ['bash', str(REPOSITORY / 'tools' / script), *map(str, arguments)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise failure(done.stdout + done.stderr)


def busy_port(folder: Path) -> None:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        shell('dist_train.sh', config(folder), 1, PORT=str(server.getsockname()[1]))


def no_teacher_file(folder: Path) -> None:
    file = config(folder, model__teacher__allow_random_teacher=False, model__teacher__checkpoint='teacher.pth')
    tool('describe.py', file)


def text_as_teacher(folder: Path) -> None:
    (folder / 'teacher.pth').write_text('404')
    file = config(folder, model__teacher__allow_random_teacher=False, model__teacher__checkpoint='teacher.pth')
    tool('describe.py', file)


def two_at_once(folder: Path) -> None:
    files = [config(folder, f'{name}.py', lambda part, name=name: part.update(work_dir=name)) for name in ('one', 'two')]
    command = [sys.executable, '-W', 'ignore', REPOSITORY / 'tools' / 'train.py']
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running = [subprocess.Popen([*command, file], **pipes) for file in files]
    for process in running:
        output, _ = process.communicate(timeout=120)
        check(process.returncode == 0, f'a run failed: {output[-500:]}')
    check_equal(weights(folder / 'one' / 'epoch_1.pth'), weights(folder / 'two' / 'epoch_1.pth'), 'two equal runs at once')


def circular(folder: Path) -> Path:
    (folder / 'circle.py').write_text("_base_ = './circle.py'\n")
    return folder / 'circle.py'


BASE = b"_base_ = './nowhere.py'\n"
ATTEMPTS = [
    refused('every tool: a config that does not exist', every(nothing), 'missing.py'),
    refused('every tool: a folder as the config', every(a_folder), 'folder.py'),
    refused('every tool: a binary file as the config', every(content(bytes(range(256)) * 9)), 'broken.py'),
    refused('every tool: a syntax error in the config', every(content(LINE.encode())), 'broken.py'),
    refused('every tool: a config that raises', every(content(b'x = 1 / 0\n')), 'broken.py'),
    refused('every tool: a base config that does not exist', every(content(BASE)), 'nowhere.py'),
    refused('every tool: a config that is its own base', every(circular), 'circle.py'),
    refused('every tool: a checkpoint as the config', every(content(b'PK\3\4', 'x.pth')), 'x.pth'),
    works('a config in a folder with spaces and unicode', trained(make=config, name='größe 學/my config.py')),
    works('a config behind a link', trained(make=linked_config)),
    works('a relative config from another folder', elsewhere),
    refused('a URL as the config', lambda f: tool('train.py', 'https://127.0.0.1:9/x.py'), 'https://127.0.0.1:9/x.py'),
    refused('--cfg-options without a value', options('model.losses.loss_kd.tau'), 'model.losses.loss_kd.tau', 'cfg-options'),
    refused('--cfg-options with an empty value', options('model.losses.loss_kd.tau='), 'model.losses.loss_kd', 'tau'),
    refused('--cfg-options with a setting below a number', options('model.losses.loss_kd.tau.x=1'), 'tau'),
    refused(
        '--cfg-options with an index that a list does not have', options('custom_hooks.99.type=A'), 'custom_hooks', '99'
    ),
    refused('--cfg-options with a tap that does not exist', options('model.student.taps.patches=a.b'), 'patches', 'a.b'),
    works('--cfg-options with quotes and a tuple', quoted),
    works('--cfg-options that removes a loss', options('model.losses.loss_ra=None')),
    refused('a file as the work folder', work_dir_is_a_file, 'busy'),
    refused('an unknown flag', lambda f: tool('train.py', config(f), '--resum'), '--resum'),
    refused("describe without the teacher's file", no_teacher_file, 'model.teacher.checkpoint', 'teacher.pth'),
    refused("describe with a text as the teacher's weights", text_as_teacher, 'model.teacher.checkpoint', 'teacher.pth'),
    works('compare one run', compared('work')),
    refused('compare a folder twice', compared('work', 'work'), '--names'),
    refused('compare a file', compared('file'), 'file'),
    refused('compare an empty folder', compared('work', 'empty'), 'empty'),
    refused('compare by a metric that no run has', compared('work', '--metric', 'accuracy/top9'), 'accuracy/top9'),
    refused('compare into a file', compared('work', '--out-dir', 'file'), 'file'),
    works('compare with a name of Markdown and unicode', compared('work', '--names', '`a|b` größe $x$')),
    works('draw an image with unicode and spaces', drawn(images='images/größe 學.jpg')),
    refused('draw a folder without images', drawn(images='nothing'), 'nothing'),
    refused('draw an image that does not exist', drawn(images='gone.jpg'), 'gone.jpg'),
    refused('draw an unknown view', drawn('--view', 'superpixel'), 'superpixel', "'superpixels'"),
    refused('draw an unknown tap', drawn('--tap', 'patch'), 'patch'),
    refused('draw superpixel 9999', drawn('--superpixel', '9999'), '9999'),
    refused('draw superpixel -1', drawn('--superpixel', '-1'), '-1'),
    refused('draw on a device that is not there', no_device, 'NVIDIA driver'),
    refused('write the digits twice', digits_again, 'digits'),
    refused('dist_train.sh with a busy port', busy_port, 'port', 'address already in use', seconds=150),
    refused(
        'dist_train.sh with a word as the number of processes', lambda f: shell('dist_train.sh', config(f), 'two'), 'two'
    ),
    works('two trainings at once in two folders', two_at_once, seconds=180),
]
