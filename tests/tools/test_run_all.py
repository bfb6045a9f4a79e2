"""run_all.sh: checks and benchmarks of a GPU in one run with a report; here its rehearsal on the CPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from builders import REPOSITORY, run_command, run_python

BENCHMARKS = REPOSITORY / 'tools' / 'benchmarks'


@pytest.fixture
def benchmarks(monkeypatch):
    """Make the modules of the tool importable."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def report_of(out):
    """Return the report in JSON, and its parts by name; check that the page names each of them."""
    report = json.loads((out / 'report.json').read_text())
    parts = {part['name']: part for part in report['parts']}
    page = (out / 'report.md').read_text()
    assert all(f'| {name} | {part["title"]} | {part["status"]}' in page for name, part in parts.items())
    return report, parts


@pytest.mark.slow
def test_rehearsal_reports_every_part_and_ends_with_the_failures(tmp_path):
    parts = ('ops', 'fallback', 'distributed')
    # pytest refuses its flag, so the first of these parts fails.
    output = run_command(
        *('bash', BENCHMARKS / 'run_all.sh', tmp_path, '--quick', '--parts', *parts),
        succeed=False,
        PYTEST_ADDOPTS='--no-such-flag',
    )
    report, found = report_of(tmp_path)
    assert {name: part['status'] for name, part in found.items()} == {
        'machine': 'passed',
        'ops': 'failed',
        'fallback': 'passed',
        'distributed': 'passed',
    }
    assert '--no-such-flag' in (tmp_path / 'logs' / 'ops.log').read_text()
    assert output.splitlines()[-1] == f'ops failed: {found["ops"]["reason"]}'
    assert report['failed'] == ['ops']
    assert {'device', 'torch', 'python', 'date', 'serkd_mm', 'mmengine'} <= set(report)
    assert found['distributed']['figures']['backend'] == 'gloo'
    assert found['distributed']['figures']['processes'] == 2
    assert max(found['fallback']['figures'].values()) < 1e-4
    assert all(part['seconds'] > 0 for part in found.values())
    page = (tmp_path / 'report.md').read_text()
    assert '**ops failed:**' in page
    assert str(REPOSITORY) not in page


@pytest.mark.slow
def test_interrupted_run_leaves_a_report_and_no_processes(tmp_path):
    command = [
        sys.executable,
        BENCHMARKS / 'run_all.py',
        tmp_path,
        '--quick',
        '--device',
        'cpu',
        '--parts',
        'fallback',
        'kernel',
    ]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not (tmp_path / 'logs' / 'kernel.log').exists() and time.monotonic() < end:
        time.sleep(0.05)
    (child,) = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert not Path(f'/proc/{child}').exists()
    report, found = report_of(tmp_path)
    assert report['interrupted']
    assert {name: part['status'] for name, part in found.items()} == {
        'machine': 'passed',
        'kernel': 'failed',
        'fallback': 'not run',
    }


RECORDED = """
import pytest

@pytest.mark.parametrize('allocations', [0, 3, 5])
def test_one(allocations, record_property):
    record_property('cuda_allocations', allocations)

def test_two():
    pytest.skip('needs a GPU')
"""


def test_tests_that_do_not_use_the_gpu_are_a_failure_there(benchmarks, tmp_path):
    import run_all_figures  # noqa: PLC0415

    (tmp_path / 'test_one.py').write_text(RECORDED)
    junit = tmp_path / 'tests.xml'
    run_python('-m', 'pytest', '-p', 'no:cacheprovider', tmp_path / 'test_one.py', f'--junitxml={junit}', cwd=tmp_path)
    expected = {'passed': 3, 'of these on the GPU': 2, 'skipped': 1, 'failed': 0}
    assert run_all_figures.of_tests(junit, 'cuda') == run_all_figures.of_tests(junit, 'cpu') == expected
    junit.write_text(re.sub('value="[35]"', 'value="0"', junit.read_text()))
    assert run_all_figures.of_tests(junit, 'cpu')['of these on the GPU'] == 0
    with pytest.raises(run_all_figures.Failed, match='none of the 3 tests that passed used the GPU'):
        run_all_figures.of_tests(junit, 'cuda')


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
def test_missing_gpu_is_reported(benchmarks):
    import gpu_checks  # noqa: PLC0415

    with pytest.raises(SystemExit, match='finds no GPU'):
        gpu_checks.check_machine(SimpleNamespace(device='cuda'))


def test_steps_that_differ_exceed_their_tolerance(benchmarks):
    import gpu_checks  # noqa: PLC0415

    gradient = {'weight': torch.randn(50, generator=torch.Generator().manual_seed(0)), 'bias': torch.ones(3)}
    step = gpu_checks.Step({'loss': 2.0, 'loss_ra': 0.5}, gradient)
    assert max(gpu_checks.compare(step, step).values()) < 1e-12
    other = gpu_checks.Step({'loss': 2.0, 'loss_ra': 0.51}, {**gradient, 'bias': -torch.ones(3)})
    found = gpu_checks.compare(other, step)
    assert found['loss'] == 0
    assert found['loss_ra'] == pytest.approx(0.02)
    wrong = gpu_checks.beyond(found, gpu_checks.TOLERANCES['bfloat16'])
    assert [message.split(':')[0] for message in wrong] == ['loss_ra', '1 - cosine']
    assert gpu_checks.beyond({'loss': float('nan')}, gpu_checks.TOLERANCES['cpu']) == ['loss: nan > 0.001']
