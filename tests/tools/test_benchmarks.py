"""The benchmarks run and compare functions with equal results. The measured times are not tested."""

import json

import cv2
import pytest
from builders import REPOSITORY, run_python

pytestmark = pytest.mark.slow

BENCHMARKS = REPOSITORY / 'tools' / 'benchmarks'


def run(*command):
    """Return the output of a benchmark."""
    return run_python(*command, PYTHONPATH=str(BENCHMARKS))


def saved(path):
    """Return the saved results; check that the machine is described and that the plot is not empty."""
    content = json.loads(path.with_suffix('.json').read_text())
    assert {'device', 'torch', 'python', 'date', 'dtype'} <= set(content['machine'])
    assert cv2.imread(str(path.with_suffix('.png'))).std() > 10
    return content['results']


def test_relation_losses(tmp_path):
    settings = ['--device', 'cpu', '--dtype', 'float32', '--seconds', '0.01', '--out', tmp_path]
    output = run(BENCHMARKS / 'relation_losses.py', *settings, '--cases', '9x2')
    results = saved(tmp_path / 'relation_losses_cpu')
    assert len({(result['kind'], result['loss'], result['tokens'], result['images']) for result in results}) == 3 + 3 + 2
    assert all(result['seconds'] > 0 and 'failed' not in result for result in results)
    for loss in ('angle', 'distance', 'superpixels'):
        assert f'| {loss} | 9 | 2 |' in output


def test_training_step_and_its_parts(tmp_path):
    settings = ['--device', 'cpu', '--dtype', 'float32', '--seconds', '0.01', '--out', tmp_path]
    # Memory is measured for one kind, in this process; test_relation_losses starts others for it.
    code = 'import training_step as t; t.machine.measure_separately = lambda measure, rest, _: measure("labels", *rest[1:])'
    output = run('-c', f'{code}; t.main()', *settings, '--batch', '2')
    results = saved(tmp_path / 'training_step_cpu')
    assert {'labels', 'kd', 'serkd', 'cached'} <= set(results['kinds'])
    for found in results['kinds'].values():
        assert found['seconds'] > 0
        assert 'failed' not in found
    assert sum(results['shares'].values()) == pytest.approx(1)
    assert '| SeRKD |' in output
    assert '| SeRKD from a cache |' in output
    assert results['records'] > 0


def test_steps_of_all_methods(tmp_path):
    settings = ['--device', 'cpu', '--dtype', 'float32', '--seconds', '0.01', '--batch', '2', '--out', tmp_path]
    # Two methods take steps, with a small teacher; tests/configs takes one with the config of every method.
    code = """
import method_steps, training_step
configs = [method_steps.config_of(method) for method in method_steps.METHODS]
assert all(config.is_file() for config in configs), configs
small = {'model.teacher.model': 'deit-tiny_4xb256_in1k'}
block = {**small, 'model.teacher.taps.patches': 'backbone.layers[0] | backbone.ln1'}
method_steps.METHODS = {'kd': ('KD', '_kd', small), 'leap': ('LEAP', '_leap', block)}
method_steps.machine.measure_separately = lambda measure, settings, _: measure(*settings) if settings[0] == 'kd' else {}
training_step.main()
"""
    output = run('-c', code, '--methods', *settings)
    results = saved(tmp_path / 'training_step_methods_cpu')['methods']
    assert results['kd']['over_kd'] == 1
    assert results['kd']['bytes'] > 0
    assert results['leap']['seconds'] > 0
    assert '| LEAP |' in output


def test_growth_by_tokens_and_images(tmp_path):
    code = "import growth; growth.SERIES = {'tokens': {'cpu': [(5, 1), (9, 1)]}, 'images': {'cpu': [(5, 1), (5, 2)]}}"
    # In this process, which takes a fraction of the time; test_relation_losses starts others.
    code += '; growth.machine.measure_separately = lambda measure, settings, _: measure(*settings)'
    settings = ['--device', 'cpu', '--dtype', 'float32', '--seconds', '0.01', '--out', tmp_path]
    output = run('-c', f'{code}; growth.main()', *settings)
    results = saved(tmp_path / 'growth_cpu')
    assert [(r['kind'], r['tokens']) for r in results['tokens']] == [(k, t) for t in (5, 9) for k in ('ours', 'listing')]
    assert 'ours by images' in output
