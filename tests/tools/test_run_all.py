"""run_all.sh: checks and benchmarks of a GPU in one run with a report; here its rehearsal on the CPU."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from builders import REPOSITORY, run_python

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


def start(out, *arguments, **environment):
    """Start the script; return its process."""
    return subprocess.Popen(
        ['bash', str(BENCHMARKS / 'run_all.sh'), str(out), *arguments],
        env={**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '-1', **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_rehearsal_goes_on_after_a_failure_and_leaves_a_report_when_it_is_interrupted(tmp_path):
    # pytest refuses its flag, so the first part fails. Another one is interrupted.
    parts = ('ops', 'distributed', 'kernel_statistics', 'growth')
    process = start(tmp_path, '--quick', '--parts', *parts, PYTEST_ADDOPTS='--no-such-flag')
    end = time.monotonic() + 600
    while not (tmp_path / 'logs' / 'kernel_statistics.log').exists() and time.monotonic() < end:
        time.sleep(0.05)
    (child,) = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert not Path(f'/proc/{child}').exists()
    report, found = report_of(tmp_path)
    assert {name: part['status'] for name, part in found.items()} == {
        'machine': 'passed',
        'ops': 'failed',
        'distributed': 'passed',
        'kernel_statistics': 'failed',
        'growth': 'not run',
    }
    assert report['interrupted']
    assert report['failed'] == ['ops', 'kernel_statistics', 'growth']
    assert {'device', 'torch', 'python', 'date', 'serkd_mm', 'mmengine'} <= set(report)
    assert output.splitlines()[-3:] == [
        f'{name} {found[name]["status"]}: {found[name]["reason"]}' for name in report['failed']
    ]
    assert found['kernel_statistics']['reason'] == 'interrupted'
    assert found['distributed']['figures'] == {
        'processes': 2,
        'backend': 'gloo',
        'iterations': 3,
        'last loss': found['distributed']['figures']['last loss'],
        'devices': 'cpu',
    }
    page = (tmp_path / 'report.md').read_text()
    assert '--no-such-flag' in page
    assert str(REPOSITORY) not in page


def test_missing_gpu_is_a_failure(tmp_path):
    process = start(tmp_path, '--device', 'cuda', '--parts', 'ops')
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    _, found = report_of(tmp_path)
    assert {name: part['status'] for name, part in found.items()} == {'machine': 'failed', 'ops': 'not run'}
    machine, ops = output.splitlines()[-2:]
    assert machine.startswith('machine failed: --device cuda: torch ')
    assert machine.endswith('finds no GPU')
    assert ops == 'ops not run: machine failed'


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


def test_a_part_is_skipped_without_its_package(benchmarks, tmp_path):
    from run_all_parts import Settings, parts_of  # noqa: PLC0415

    parts = {part.name: part for part in parts_of(Settings(tmp_path, quick=True, device='cpu'))}
    assert parts['kernel_statistics'].lacks({}) == 'triton is not installed'
    assert parts['kernel_statistics'].lacks({'triton': '3.2.0'}) == 'triton 3.2.0 is older than 3.3'
    assert parts['kernel_statistics'].lacks({'triton': '3.10.0+git1'}) is None
    assert parts['kernel'].lacks({'triton': '2.1.0'}) is None
    assert parts['ops'].lacks({}) is None


def test_a_kernel_that_does_not_compile_for_the_gpu_is_a_failure(benchmarks, tmp_path):
    import run_all_figures  # noqa: PLC0415

    compiled = dict(target='sm_80', tokens=49, instructions=21.4, registers=128, occupancy=0.25, spills=0)
    path = tmp_path / 'statistics.json'
    path.write_text(json.dumps({'results': [compiled, dict(target='sm_90', failed='no')]}))
    assert run_all_figures.of_statistics(path, 'sm_80')['sm_80, 49 tokens, registers'] == 128
    with pytest.raises(run_all_figures.Failed, match='not compiled for sm_90, which is this GPU: no'):
        run_all_figures.of_statistics(path, 'sm_90')


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
    assert [message.split(':')[0] for message in wrong] == ['1 - cosine', 'loss_ra']
    assert gpu_checks.beyond({'loss': float('nan')}, gpu_checks.TOLERANCES['cpu']) == ['loss: nan > 0.001']
