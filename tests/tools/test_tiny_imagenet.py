"""The study with a teacher of ImageNet, on generated pictures: it runs, goes on after a kill, and reports."""

import os
import runpy
import signal
import subprocess
import sys
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from builders import REPOSITORY, run_python
from mmengine.config import Config

NAMES = [line.split()[1] for line in (REPOSITORY / 'configs' / 'tiny_imagenet' / 'classes.txt').read_text().splitlines()]
STUDY = REPOSITORY / 'tools' / 'experiments' / 'tiny_imagenet.py'


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')


def write_classes(root):
    generator = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in NAMES:
            folder = root / split / name
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / '0.JPEG'), generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    return root


def write_archive(root):
    """Write a folder as the archive's with two classes of the study and one other, of 201 and 2 images."""
    annotations = []
    for name in (*NAMES[:2], 'n00000000'):
        (root / 'train' / name / 'images').mkdir(parents=True)
        for number in range(201):
            (root / 'train' / name / 'images' / f'{name}_{number}.JPEG').write_text(f'{name} {number}')
        annotations += [f'val_{len(annotations) + number}.JPEG\t{name}\t0\t0\t62\t57\n' for number in range(2)]
    (root / 'val' / 'images').mkdir(parents=True)
    for line in annotations:
        (root / 'val' / 'images' / line.split()[0]).write_text(line)
    (root / 'val' / 'val_annotations.txt').write_text(''.join(annotations))
    return root


@pytest.mark.slow
def test_study_goes_on_after_a_kill_and_reports(tmp_path):
    root, work_dir = write_classes(tmp_path / 'my pictures'), tmp_path / 'my work'
    command = [STUDY, '--scale', 'smoke', '--students', 'vit16', '--methods', 'labels', 'kd', '--seeds', 1, '--jobs', 1]
    command += ['--data-root', root, '--work-dir', work_dir, '--cfg-options', 'train_dataloader.dataset.indices=None']
    with subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as first:
        while '[1/2]' not in first.stdout.readline():
            assert first.poll() is None
        os.killpg(first.pid, signal.SIGKILL)
    folder = work_dir / 'smoke'
    assert not (folder / 'results.md').exists()
    output = run_python(*command)
    assert 'cache_teacher' not in output
    assert output.count('training, see') == 1
    table = (folder / 'results.md').read_text()
    assert table in output
    rows = {line.split('|')[1].strip(): line.split('|')[2:] for line in table.splitlines() if line.startswith('| ')}
    assert list(rows)[2:] == ['labels only', 'KD']
    for method, title in (('labels', 'labels only'), ('kd', 'KD')):
        run = folder / 'students' / f'vit16_{method}_seed0'
        predictions, labels = ((run / f'{name}.txt').read_text().split() for name in ('predictions', 'labels'))
        assert labels == [str(label) for label in range(100)]
        assert float(rows[title][0]) == sum(map(str.__eq__, predictions, labels))
        assert rows[title][2].strip() == rows[title][0].strip()  # One seed.
    assert 'The teacher has' in table
    assert cv2.imread(str(folder / 'results.png')).std() > 5
    assert not (folder / 'summary.md').exists()  # Of students with all methods.

    views = [
        Config.fromfile(folder / 'teachers' / 'lite0-256' / f'vit16_{name}.py').train_dataloader for name in ('labels', 'kd')
    ]
    assert views[1].dataset.pop('cache')
    views[0].dataset.augments = None
    assert views[0].to_dict() == views[1].to_dict()

    output = run_python(*command, 'optim_wrapper.optimizer.lr=1e-3', succeed=False)
    assert 'was made with other configs or settings' in output
    assert f'all its trainings in {folder / "students"}' in ' '.join(output.split())


def test_image_folder_is_made_from_the_archive(tmp_path, monkeypatch, capsys):
    converter = REPOSITORY / 'tools' / 'dataset_converters' / 'tiny_imagenet.py'
    source, target, classes = write_archive(tmp_path / 'archive'), tmp_path / 'pictures', tmp_path / 'classes.txt'
    classes.write_text(f'61 {NAMES[0]}\n75 {NAMES[1]}\n')

    def convert():
        monkeypatch.setattr(sys, 'argv', [str(converter), str(source), str(target)])
        module = runpy.run_path(str(converter))
        module['main'].__globals__['CLASSES'] = classes
        module['main']()

    convert()
    assert '404 images' in capsys.readouterr().out
    for name in NAMES[:2]:
        assert len(list((target / 'train' / name).iterdir())) == 200
        assert (target / 'train' / name / f'{name}_199.JPEG').read_text() == f'{name} 199'
        assert [f'\t{name}\t' in path.read_text() for path in (target / 'val' / name).iterdir()] == [True, True]
    assert not (target / 'train' / 'n00000000').exists()
    with pytest.raises(SystemExit, match='exists'):
        convert()
    target.rename(tmp_path / 'other')
    (source / 'train' / NAMES[1] / 'images' / f'{NAMES[1]}_7.JPEG').unlink()
    with pytest.raises(SystemExit, match=r'_7\.JPEG is missing, and 0 other images'):
        convert()
    assert not target.exists()


@pytest.mark.slow
def test_wrong_data_root_is_reported(tmp_path):
    output = run_python(STUDY, '--data-root', tmp_path, succeed=False)
    assert '--data-root' in output
    assert '100 are missing, 0 are others' in output
    write_classes(tmp_path)
    output = run_python(STUDY, '--scale', 'small', '--data-root', tmp_path, succeed=False)
    assert 'must hold 200 images, but holds 1' in output


def test_students_without_the_methods_are_left_out(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(STUDY.parent))
    import tiny_imagenet  # noqa: PLC0415 (a script)

    monkeypatch.setattr(sys, 'argv', ['study', '--methods', 'dist'])
    assert tiny_imagenet.parse_args().students == ['vit', 'cnn']
    for flags in (['--students', 'vit16', '--methods', 'dist'], ['--seeds', '0'], ['--data-root', 'a,b']):
        monkeypatch.setattr(sys, 'argv', ['study', *flags])
        with pytest.raises(SystemExit):
            tiny_imagenet.parse_args()
    assert 'must have no comma' in capsys.readouterr().err


@contextmanager
def held_by_another_process(lock):
    """Hold a lock file, which a living process has written."""
    script = (
        f'import sys, pathlib; from serkd_mm.fileio.run_lock import RunLock; '
        f'RunLock(pathlib.Path({str(lock)!r})).acquire(print); print("held", flush=True); sys.stdin.read()'
    )
    command = [sys.executable, '-W', 'ignore', '-c', script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == 'held\n'
        yield
        holder.stdin.close()


def test_running_training_is_not_removed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(STUDY.parent))
    from runs import Experiment, Run  # noqa: PLC0415 (a script)

    run = Run(STUDY.parents[2] / 'configs' / 'tiny_imagenet' / 'vit_labels.py', 'run', 0)
    experiment = Experiment(tmp_path, None, [], 1)
    checkpoint = experiment.last_checkpoint(run)
    with held_by_another_process(checkpoint.parent / 'run.lock'):
        checkpoint.touch()  # Its last validation is to come.
        with pytest.raises(SystemExit, match='in use by process'):
            experiment.run([], [run])
        assert checkpoint.is_file()


def test_outputs_of_a_teacher_are_made_by_one_start(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(STUDY.parent))
    from teacher_outputs import Scale, TeacherOutputs  # noqa: PLC0415 (a script)

    source = STUDY.parents[2] / 'configs' / 'tiny_imagenet' / 'vit_labels.py'
    outputs = TeacherOutputs(tmp_path / 'lite0', 'efficientnet-lite0', [source], Scale(views=1), [], 1)
    with held_by_another_process(tmp_path / 'run.lock'), pytest.raises(SystemExit, match='in use by process'):
        outputs.make()
    assert not (tmp_path / 'lite0' / 'finished').exists()


def test_analyses_of_an_older_student_are_made_again(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.syspath_prepend(str(STUDY.parent))
    from analyses import Analyses  # noqa: PLC0415 (a script)

    names = ['vit_superpixels.md', 'vit_gradients_after.md', 'vit16_superpixels.md']
    for age, name in enumerate(names):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / 'vit_pictures').mkdir()
    checkpoint = tmp_path / 'epoch_8.pth'
    checkpoint.touch()
    analyses = Analyses(tmp_path, tmp_path)
    monkeypatch.setattr(analyses, '_draw', lambda *_: None)
    elsewhere = tmp_path_factory.mktemp('tables')

    def table(name, *_):
        (elsewhere / name).write_text(f'table {name}\n')
        return elsewhere / name

    monkeypatch.setattr(analyses, '_table', table)
    os.utime(checkpoint, (1000, 1000))
    tables = analyses.make('vit', ['config.py'], tmp_path / 'cached.py', checkpoint)
    assert {path.name for path in tmp_path.iterdir()} == {names[0], names[2], 'vit_pictures', checkpoint.name}
    shown = ('superpixels', 'gradients_before', 'gradients_after')
    assert tables[:-1] == [f'table vit_{name}.md' for name in shown]
    assert tables[-1].endswith(f'({tmp_path.name}/vit_other_superpixels.md)')
