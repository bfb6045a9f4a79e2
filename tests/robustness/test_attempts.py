"""``attempts.py``, which takes minutes, still runs: a few cheap attempts, and attempts whose outcome is known."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from builders import run_python

FOLDER = str(Path(__file__).parent)


@pytest.fixture(scope='module')
def attempts():
    """Import the script as it imports itself."""
    sys.path.insert(0, FOLDER)
    try:
        import attempts  # noqa: PLC0415 (its folder is not on the path before)
    finally:
        sys.path.remove(FOLDER)
    return attempts


@pytest.mark.slow
def test_cheap_attempts_have_their_outcome():
    # In a fresh process: the threads of OpenMP, which other tests may have started, do not survive the fork of an attempt.
    expected = {
        'a tap on a module that runs twice': 'refused clearly',
        'a student with frozen stages and weight decay': 'works',
        'permuted tokens': 'works',
    }
    output = run_python(f'{FOLDER}/attempts.py', '--match', *expected)
    for what, outcome in expected.items():
        assert f': {what}: {outcome}\n' in output, output


def test_outcomes_are_judged(attempts, tmp_path):
    from judging import check, refused, works  # noqa: PLC0415 (imported by the script)

    def fail(message):
        raise ValueError(message)

    made = {
        'a wrong result': (works('', lambda folder: check(False, 'wrong')), 'bad'),
        'a hang': (works('', lambda folder: time.sleep(60), seconds=0.2), 'bad'),
        'a death': (works('', lambda folder: os.kill(os.getpid(), signal.SIGKILL)), 'bad'),
        'a setting that is accepted': (refused('', lambda folder: None, 'key'), 'bad'),
        'an error that names nothing': (refused('', lambda folder: fail('no'), 'key'), 'unclear'),
        'a refusal of what should work': (works('', lambda folder: fail('key')), 'unclear'),
        'an error that names the key': (refused('', lambda folder: fail('key is wrong'), 'key'), 'refused clearly'),
    }
    for name, (attempt, outcome) in made.items():
        assert attempts.make(attempt, tmp_path / name).outcome == outcome, name


def test_there_are_more_than_a_hundred_attempts_and_each_has_one_name(attempts):
    names = [(area, attempt.what) for area, of_area in attempts.AREAS.items() for attempt in of_area]
    assert len(set(names)) == len(names) > 100
