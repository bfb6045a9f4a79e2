"""The command-line tools, started as users start them."""

import json
import os
import pickle
import sys
from pathlib import Path

import cv2
import mmpretrain
import pytest
import torch
from builders import REPOSITORY, Command, python_path, run_forked, training_config, write_images
from builders import run_command as run
from mmengine.config import Config
from sklearn.datasets import load_sample_images

pytestmark = pytest.mark.slow

TOOLS = REPOSITORY / 'tools'
CONFIGS = REPOSITORY / 'configs' / 'serkd'
MMPRETRAIN = Path(mmpretrain.__file__).parent / '.mim'
# The two main configs of the paper, with the student's plain config in mmpretrain.
PIPELINES = {
    CONFIGS / 'deit-ti_mae-b.py': MMPRETRAIN / 'configs' / 'deit' / 'deit-tiny-distilled_4xb256_in1k.py',
    CONFIGS / 'resnet18_resnet101.py': MMPRETRAIN / 'configs' / 'resnet' / 'resnet18_8xb32_in1k.py',
}


def logged(work_dir):
    """Return all log entries of the runs in a folder."""
    files = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """Twelve crops of the two photographs of scikit-learn, in the folder layout of ImageNet."""
    root = tmp_path_factory.mktemp('imagenet')
    lines = []
    for number in range(12):
        photograph = load_sample_images().images[number % 2]
        top, left = 20 * (number // 2), 60 * (number // 2)
        name = f'{number}.jpg'
        for split in ('train', 'val'):
            (root / split).mkdir(exist_ok=True)
            assert cv2.imwrite(str(root / split / name), photograph[top : top + 300, left : left + 280, ::-1])
        lines.append(f'{name} {number * 80}')
    (root / 'meta').mkdir()
    for split in ('train', 'val'):
        (root / 'meta' / f'{split}.txt').write_text('\n'.join(lines))
    return root


@pytest.fixture(scope='module')
def data_options(photographs):
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    options = [f'{loader}.dataset.data_root={photographs}' for loader in loaders]
    return [*options, *(f'{loader}.num_workers=0' for loader in loaders)]


@pytest.fixture(scope='module', params=PIPELINES, ids=lambda config: config.stem)
def config(request):
    """A full-size config, changed only by the command line."""
    return request.param


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory, data_options):
    """Work folder of a config that 2 processes have trained for 3 iterations with a random teacher."""
    work_dir = tmp_path_factory.mktemp('work')
    options = ['model.teacher.checkpoint=None', 'model.teacher.allow_random_teacher=True', 'train_cfg.max_epochs=1']
    options += ['train_dataloader.batch_size=2', 'default_hooks.logger.interval=1', *data_options]
    run(TOOLS / 'dist_train.sh', config, 2, '--work-dir', work_dir, '--cfg-options', *options)
    return work_dir


def test_full_config_trains_on_two_processes(config, trained):
    names = ['loss_cls', *Config.fromfile(config).model.losses]
    entries = logged(trained)
    steps = [entry for entry in entries if 'loss' in entry]
    assert len(steps) == 3
    for entry in steps:
        assert sum(entry[name] for name in names) == pytest.approx(entry['loss'], rel=1e-5)
        assert all(entry[name] > 0 for name in names)
    assert any('accuracy/top1' in entry for entry in entries)
    state_dict = torch.load(trained / 'epoch_1.pth', weights_only=True)['state_dict']
    assert {name.split('.')[0] for name in state_dict} == {'backbone', 'head', 'distill'}


def test_mmpretrain_predicts_the_same_from_the_checkpoint(config, trained, data_options, tmp_path):
    ours = [TOOLS / 'test.py', config]
    theirs = [MMPRETRAIN / 'tools' / 'test.py', PIPELINES[config]]
    predictions = {}
    for name, command in {'ours': ours, 'theirs': theirs}.items():
        out = tmp_path / f'{name}.pkl'
        flags = ['--work-dir', tmp_path / name, '--out', out, '--cfg-options', *data_options]
        # Outside the repository and with an empty cache: mmpretrain finds neither this package nor a teacher.
        output = run(
            sys.executable, *command, trained / 'epoch_1.pth', *flags, cwd=tmp_path, TORCH_HOME=str(tmp_path / 'cache')
        )
        assert 'missing keys' not in output
        assert 'accuracy/top1' in output
        predictions[name] = [prediction['pred_score'] for prediction in pickle.loads(out.read_bytes())]
    assert not (tmp_path / 'cache').exists()
    assert len(predictions['ours']) == 12
    assert all(torch.equal(a, b) for a, b in zip(predictions['ours'], predictions['theirs'], strict=True))
    assert not torch.equal(predictions['ours'][0], predictions['ours'][1])


def test_evaluation_on_two_processes_and_with_test_time_augmentation(config, trained, data_options, tmp_path):
    checkpoint, metrics = trained / 'epoch_1.pth', {}
    for name, command in {
        'one': [sys.executable, TOOLS / 'test.py', config, checkpoint],
        'two': [TOOLS / 'dist_test.sh', config, checkpoint, 2],
        'flipped': [sys.executable, TOOLS / 'test.py', config, checkpoint, '--tta'],
    }.items():
        out = tmp_path / f'{name}.json'
        flags = ['--work-dir', tmp_path / name, '--out', out, '--out-item', 'metrics']
        run(*command, *flags, '--cfg-options', *data_options)
        metrics[name] = json.loads(out.read_text())
    assert metrics['one'] == metrics['two']
    assert metrics['flipped'].keys() == metrics['one'].keys()


RANK_PROBE = """
import atexit, os, pathlib, time

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

FOLDER = pathlib.Path(__file__).parent


@HOOKS.register_module()
class SaveEveryRank(Hook):
    def after_train(self, runner):
        model = runner.model.module
        state = dict(student=model.state_dict(), teacher=model.teacher.state_dict())
        torch.save(state, FOLDER / f'rank{runner.rank}.pth')


@atexit.register
def count_threads():
    waits = 0
    while (threads := len(os.listdir('/proc/self/task'))) > 1 and waits < 50:  # A joined thread is listed a little longer.
        waits += 1
        time.sleep(0.1)
    (FOLDER / f'threads{os.environ["RANK"]}').write_text(str(threads))
"""


def test_two_processes_have_the_same_student_and_end_their_threads(image_root, tmp_path):
    # Every rank saves its model after training on different images. A thread of gloo that still runs when Python exits
    # sometimes aborts the process after a successful training.
    (tmp_path / 'probe.py').write_text(RANK_PROBE)
    config = training_config(image_root, tmp_path / 'work')
    config.custom_imports.imports.append('probe')
    config.custom_hooks.append(dict(type='SaveEveryRank'))
    config.dump(tmp_path / 'config.py')
    run(TOOLS / 'dist_train.sh', tmp_path / 'config.py', 2, PYTHONPATH=python_path(tmp_path))
    one, two = (torch.load(tmp_path / f'rank{rank}.pth', weights_only=True) for rank in (0, 1))
    assert all(torch.equal(two['student'][name], value) for name, value in one['student'].items())
    assert [(tmp_path / f'threads{rank}').read_text() for rank in (0, 1)] == ['1', '1']


def test_config_error_ends_all_processes_and_names_the_key(image_root, tmp_path):
    config = training_config(image_root, tmp_path / 'work')
    config.dump(tmp_path / 'config.py')
    wrong = ['--cfg-options', 'model.student.taps.patches=backbone.layer[-1]']
    output = run(TOOLS / 'dist_train.sh', tmp_path / 'config.py', 2, *wrong, succeed=False)
    assert 'model.student.taps.patches' in output
    assert "'layers'" in output


def test_failure_of_one_rank_ends_all(tmp_path):
    # One of two ranks reads a broken image in the second epoch, while the other one waits for its gradients.
    root, work_dir = write_images(tmp_path / 'images', per_class=3), tmp_path / 'work'
    config = training_config(root, work_dir)
    config.dump(tmp_path / 'config.py')
    train = [TOOLS / 'dist_train.sh', tmp_path / 'config.py', 2]
    run(*train, '--cfg-options', 'train_cfg.max_epochs=1')
    saved = {path.name: path.read_bytes() for path in work_dir.glob('*.pth')}
    broken = root / 'class2' / '1.jpg'
    picture = broken.read_bytes()
    broken.write_bytes(b'')
    output = run(*train, '--resume', succeed=False, timeout=120)
    assert f'{broken}: ' in output
    assert {path.name: path.read_bytes() for path in work_dir.glob('*.pth')} == saved
    broken.write_bytes(picture)
    run(*train, '--resume')
    assert (work_dir / 'epoch_2.pth').exists()


@pytest.mark.parametrize('way', ['test', 'resume', 'load_from', 'teacher'])
def test_checkpoint_that_would_run_code_is_rejected(way, image_root, tmp_path):
    config, trap, evil = tmp_path / 'config.py', tmp_path / 'trap', tmp_path / 'evil.pth'
    training_config(image_root, tmp_path / 'work').dump(config)
    torch.save(dict(state_dict={}, meta=Command(str(trap))), evil)
    arguments = {
        'test': ('test.py', config, evil),
        'resume': ('train.py', config, '--resume', evil),
        'load_from': ('train.py', config, '--cfg-options', f'load_from={evil}'),
        'teacher': ('train.py', config, '--cfg-options', f'model.teacher.checkpoint={evil}'),
    }
    tool, *rest = arguments[way]
    if way == 'teacher':
        rest.append('model.teacher.allow_random_teacher=False')
    output = run_forked(TOOLS / tool, *rest, succeed=False)
    assert not trap.exists()
    assert 'model.teacher.checkpoint=' in output if way == 'teacher' else 'Weights only load failed' in output


@pytest.mark.parametrize(('damage', 'message'), [('missing', 'there is no such file'), ('truncated', 'is it complete?')])
@pytest.mark.parametrize('way', ['test', 'resume'])
def test_unreadable_checkpoint_is_reported_by_name(way, damage, message, image_root, tmp_path):
    config, checkpoint = tmp_path / 'config.py', tmp_path / 'epoch_1.pth'
    training_config(image_root, tmp_path / 'work').dump(config)
    if damage == 'truncated':
        torch.save(dict(state_dict={'weight': torch.zeros(10000)}), checkpoint)
        checkpoint.write_bytes(checkpoint.read_bytes()[:20000])
    arguments = ['test.py', config, checkpoint] if way == 'test' else ['train.py', config, '--resume', checkpoint]
    output = run_forked(TOOLS / arguments[0], *arguments[1:], succeed=False)
    assert f'{"load_from=" if way == "test" else "--resume "}{str(checkpoint)!r}' in output
    assert message in output
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_damaged_last_checkpoint_is_reported_and_kept(image_root, tmp_path):
    config = training_config(image_root, tmp_path / 'work', **{'train_cfg.max_epochs': 1})
    config.dump(tmp_path / 'config.py')
    (tmp_path / 'work').mkdir()
    checkpoint = tmp_path / 'work' / 'epoch_1.pth'
    checkpoint.write_bytes(b'PK')
    (tmp_path / 'work' / 'last_checkpoint').write_text(str(checkpoint))
    output = run_forked(TOOLS / 'train.py', tmp_path / 'config.py', '--resume', succeed=False)
    assert f"--resume finds '{checkpoint}'" in output
    assert 'is it complete?' in output
    assert checkpoint.read_bytes() == b'PK'


def test_mixed_precision_trains_on_a_cpu(image_root, tmp_path):
    config = training_config(image_root, tmp_path / 'work', **{'train_cfg.max_epochs': 1})
    config.dump(tmp_path / 'config.py')
    run(sys.executable, TOOLS / 'train.py', tmp_path / 'config.py', '--amp')
    used = Config.fromfile(tmp_path / 'work' / 'config.py')
    assert used.optim_wrapper.type == 'AutocastOptimWrapper'
    assert len([entry for entry in logged(tmp_path / 'work') if 'loss_ra' in entry]) == 3
    amp = [
        sys.executable,
        TOOLS / 'train.py',
        tmp_path / 'config.py',
        '--work-dir',
        tmp_path / 'dtype',
        '--amp',
        '--cfg-options',
    ]
    run(*amp, 'optim_wrapper.dtype=bfloat16')
    assert len([entry for entry in logged(tmp_path / 'dtype') if 'loss_ra' in entry]) == 3
    (line,) = run(*amp, 'optim_wrapper.dtype=float16', f'work_dir={tmp_path}/float16', succeed=False).splitlines()[-1:]
    assert line.startswith("error: optim_wrapper.dtype='float16' needs a GPU: mixed precision on a CPU is bfloat16.")


@pytest.mark.parametrize(
    'script', [f'{way}_{tool}.sh' for way in ('dist', 'slurm') for tool in ('train', 'test', 'cache_teacher')]
)
def test_scripts_without_arguments_print_their_usage(script):
    output = run(TOOLS / script, succeed=False)
    assert f'tools/{script}' in output
    assert 'CONFIG' in output


def test_slurm_scripts_start_the_tools_through_srun(image_root, tmp_path):
    stub = tmp_path / 'bin'
    stub.mkdir()
    (stub / 'srun').write_text(
        f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" > {tmp_path}/srun.txt\n'
        'while [ "${1#-}" != "$1" ]; do if [ "$1" = -p ]; then shift; fi; shift; done\n'
        'export SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0 SLURM_NODELIST=localhost MASTER_PORT=$PORT\nexec "$@"\n'
    )
    (stub / 'scontrol').write_text('#!/usr/bin/env bash\necho 127.0.0.1\n')
    for file in stub.iterdir():
        file.chmod(0o755)
    path = f'{stub}:{os.environ["PATH"]}'
    work_dir = tmp_path / 'work dir'
    training_config(image_root, work_dir, **{'train_cfg.max_epochs': 1}).dump(tmp_path / 'config.py')
    environment = dict(PATH=path, GPUS='16', SRUN_ARGS='--quotatype=spot --exclusive')
    run(TOOLS / 'slurm_train.sh', 'gpu', 'job', tmp_path / 'config.py', work_dir, **environment)
    arguments = (tmp_path / 'srun.txt').read_text().splitlines()
    assert arguments[:3] == ['-p', 'gpu', '--job-name=job']
    assert {'--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8', '--exclusive', '--kill-on-bad-exit=1'} <= set(arguments)
    assert (work_dir / 'epoch_1.pth').is_file()
    output = run(TOOLS / 'slurm_test.sh', 'gpu', 'job', tmp_path / 'config.py', work_dir / 'epoch_1.pth', **environment)
    assert 'accuracy/top1' in output
