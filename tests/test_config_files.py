"""A config file or an option that cannot be read is named; the tools print one line."""

import argparse

import pytest
import torch
from builders import REPOSITORY, run_python, training_config
from mmengine.config import Config

from serkd_mm.config_files import ConfigFileError, OptionsAction, merge_options, read_config


@pytest.mark.parametrize(
    ('content', 'message'),
    [(b'x = = 3\n', 'SyntaxError'), (b'x = 1 / 0\n', 'ZeroDivisionError'), (b'\x80\xff', 'UnicodeDecodeError')],
)
def test_a_file_that_is_no_config_is_named(content, message, tmp_path):
    (tmp_path / 'broken.py').write_bytes(content)
    with pytest.raises(ConfigFileError, match=rf'broken\.py cannot be read as a config: {message}'):
        read_config(tmp_path / 'broken.py')


def test_a_config_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='missing'):
        read_config(tmp_path / 'missing.py')


def test_options_are_merged_together_and_an_option_without_a_place_is_named():
    config = Config(dict(hooks=[dict(type='A')], model=dict(type='B', x=1)))
    merge_options(config, {'model': dict(_delete_=True, type='C'), 'hooks.0.type': 'D'})
    assert config.model == dict(type='C')
    assert config.hooks[0].type == 'D'
    with pytest.raises(ConfigFileError, match=r'--cfg-options hooks\.9\.type=E: .*9'):
        merge_options(config, {'hooks.9.type': 'E'})


def test_an_option_without_a_value_is_named(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction)
    assert parser.parse_args(['--cfg-options', 'a.b=[1,2]']).cfg_options == {'a.b': [1, 2]}
    folders = parser.parse_args(['--cfg-options', 'a=/my data/x', 'b= 3', 'c=[d, e]', 'f=g, h']).cfg_options
    assert folders == {'a': '/my data/x', 'b': 3, 'c': ['d', 'e'], 'f': ['g', 'h']}
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', 'a.b'])
    assert "'a.b' is not KEY=VALUE" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['train.py', 'describe.py'])
def test_tools_report_a_broken_config_in_one_line(tool, tmp_path):
    (tmp_path / 'broken.py').write_text('x = = 3\n')
    error = run_python(REPOSITORY / 'tools' / tool, tmp_path / 'broken.py', succeed=False)
    assert 'Traceback' not in error
    assert 'broken.py cannot be read as a config' in error.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_checkpoint_that_holds_no_weights_by_name_is_named(image_root, tmp_path):
    training_config(image_root, tmp_path / 'work').dump(tmp_path / 'config.py')
    torch.save([1, 2], tmp_path / 'list.pth')
    error = run_python(
        REPOSITORY / 'tools' / 'test.py', tmp_path / 'config.py', tmp_path / 'list.pth', cwd=tmp_path, succeed=False
    )
    assert 'Traceback' not in error
    assert 'list.pth' in error
    assert 'holds a list, but no weights' in error
