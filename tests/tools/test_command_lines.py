"""Every tool has a working --help, and refuses flags that it does not know, before it does anything."""

import runpy
import subprocess
import sys

import pytest
from builders import REPOSITORY

TOOLS = REPOSITORY / 'tools'
PYTHON_TOOLS = sorted(path for path in TOOLS.rglob('*.py') if "__name__ == '__main__'" in path.read_text())
SCRIPTS = sorted(path for path in TOOLS.rglob('*.sh') if path.read_text().startswith('#!'))


@pytest.mark.parametrize('tool', PYTHON_TOOLS, ids=lambda path: path.stem)
def test_python_tool_has_help_and_refuses_unknown_flags(tool, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tool.parent)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    for arguments, status in ((['--help'], 0), (['x', 'y', 'z', '--no-such-flag'], 2)):
        monkeypatch.setattr(sys, 'argv', [str(tool), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(tool), run_name='__main__')
        printed = capsys.readouterr()
        assert ended.value.code == status, printed.err
        assert 'usage' in printed.out + printed.err
        assert status == 0 or '--no-such-flag' in printed.err
    assert not list(tmp_path.iterdir())


def shell(*command, cwd):
    return subprocess.run(['bash', *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_script_has_help(script, tmp_path):
    done = shell(script, '--help', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f'{script.relative_to(REPOSITORY)}' in done.stdout
    assert not done.stderr
    assert not list(tmp_path.iterdir())


def test_scripts_refuse_flags_as_folders(tmp_path):
    done = shell(TOOLS / 'test_stacks.sh', '--out', cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, 'error: there is no flag --out; see --help\n')


@pytest.mark.parametrize('number', ['0', '-1', 'two', '1.5', ''])
def test_number_of_processes_is_checked(number, tmp_path):
    config = REPOSITORY / 'configs' / 'quickstart' / 'teacher.py'
    for script, arguments in {'dist_train.sh': [config, number], 'dist_test.sh': [config, 'x.pth', number]}.items():
        done = shell(TOOLS / script, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == f'error: GPUS={number} must be a whole number, 1 or more: the processes on this machine\n'
    done = shell(TOOLS / 'dist_train.sh', 'none.py', 1, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, 'error: CONFIG=none.py: there is no such file\n')


def test_digits_are_not_written_over_a_folder(tmp_path):
    digits = TOOLS / 'experiments' / 'make_digits.py'
    done = subprocess.run([sys.executable, digits, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f'{tmp_path} exists already; name a new folder'
