"""RunLog and tools/compare.py."""

import json
from statistics import mean

import cv2
import pytest
from builders import run_forked, training_config
from mmengine.runner import Runner

from serkd_mm.analysis import RunLog


def write_log(folder, start, entries, tail=''):
    file = folder / start / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(json.dumps(entry) + '\n' for entry in entries) + tail)


def training(iteration, loss, **more):
    return {
        'lr': 0.1,
        'time': 0.5,
        'epoch': 1 + (iteration - 1) // 2,
        'iter': iteration,
        'step': iteration,
        'loss': loss,
        **more,
    }


def test_log_of_a_killed_and_resumed_run(tmp_path):
    first = [training(1, 9.0), training(2, 7.0), {'accuracy/top1': 10.0, 'step': 1}, training(3, 6.0)]
    write_log(tmp_path, '20260101_000000', first, tail='{"lr": 0.1, "lo')
    again = [training(3, 5.0), training(4, 4.0, loss_kd=1.0, memory=70), {'accuracy/top1': 30.0, 'step': 2, 'time': 1.0}]
    write_log(tmp_path, '20260102_000000', again)
    log = RunLog(tmp_path)
    assert log.metrics == ['accuracy/top1']
    assert log.metric('accuracy/top1') == [(1, 10.0), (2, 30.0)]
    assert log.terms == ['loss', 'loss_kd']
    assert log.term('loss') == [(1, 8.0), (2, 4.5)]
    assert log.term('loss_kd') == [(2, 1.0)]
    assert log.seconds_per_epoch == 1.0
    assert log.memory == 70


def test_damaged_lines_are_counted_and_skipped(tmp_path):
    whole = [training(1, 9.0), training(2, 7.0), {'accuracy/top1': 10.0, 'step': 1}]
    write_log(tmp_path, '20260101_000000', whole)
    (file,) = tmp_path.glob('*/vis_data/scalars.json')
    damaged = b'3\n[1]\n"text"\n{"lr": 0.1}\n\xff\x00\n{"lr": 0.1, "step": 3, "loss": "x", "iter": null}\n{"acc'
    file.write_bytes(file.read_bytes() + damaged)
    with pytest.warns(UserWarning, match=r'scalars\.json: 5 lines are damaged and skipped, the first is line 4'):
        log = RunLog(tmp_path)
    assert log.term('loss') == [(1, 8.0)]
    assert log.seconds_per_epoch is None  # The last entry has lost its epoch.
    file.write_bytes(damaged[:20])
    with pytest.warns(UserWarning, match='damaged'), pytest.raises(FileNotFoundError, match='no readable entry'):
        RunLog(tmp_path)


def compare(*arguments, succeed=True):
    return run_forked('tools/compare.py', *arguments, succeed=succeed)


@pytest.mark.slow
@pytest.mark.usefixtures('runner_scope')
def test_table_and_curves_of_real_runs(image_root, tmp_path):
    for name, tau in (('cool', 1.0), ('warm', 4.0)):
        config = training_config(image_root, tmp_path / name, **{'model.losses.loss_kd.tau': tau})
        Runner.from_cfg(config).train()
    printed = compare(tmp_path / 'cool', tmp_path / 'warm', '--out-dir', tmp_path / 'out')
    table = (tmp_path / 'out' / 'compare.md').read_text()
    rows = {row.split(' | ')[0].strip('| '): row.strip('| ').split(' | ') for row in table.splitlines() if row[:1] == '|'}
    for name in ('cool', 'warm'):
        (file,) = (tmp_path / name).glob('*/vis_data/scalars.json')
        losses = [entry['loss'] for entry in map(json.loads, file.read_text().splitlines()) if entry.get('epoch') == 2]
        assert rows[name][5] == f'{mean(losses):.4g}'
        assert ' | '.join(rows[name]) in printed
        assert rows[name][4] == '2'
    picture = cv2.imread(str(tmp_path / 'out' / 'compare.png'))
    assert min(picture.shape[:2]) > 500


@pytest.mark.slow
def test_wrong_arguments_are_reported(tmp_path):
    write_log(tmp_path / 'run', '20260101_000000', [training(1, 9.0), {'accuracy/top1': 10.0, 'step': 1}])
    assert f'{tmp_path}/none: no run has logged here' in compare(tmp_path / 'none', succeed=False)
    assert 'there is accuracy/top1' in compare(tmp_path / 'run', '--metric', 'accuracy/top5', succeed=False)
    assert 'different names' in compare(tmp_path / 'run', tmp_path / 'run', succeed=False)
