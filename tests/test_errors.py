"""Errors for users: one line from the tools, and raised on all ranks."""

import re
import sys
from pathlib import Path

import pytest
import torch
from builders import leave_ranks, run_python, run_ranks, training_config
from mmpretrain.registry import DATASETS
from torch import distributed

from serkd_mm.errors import one_line_errors, raise_on_all_ranks
from serkd_mm.fileio import CheckpointError
from serkd_mm.hooks import DataError


def printed(error, capsys):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_user_errors_are_printed_as_one_line(capsys, monkeypatch):
    assert printed(DataError('a.jpg:\n  is broken.'), capsys) == 'error: a.jpg: is broken.\n'
    assert printed(FileNotFoundError(2, 'No such file', 'a.py'), capsys).endswith("No such file: 'a.py'\n")
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError('name')
    with pytest.raises(SystemExit), one_line_errors():
        DATASETS.build(dict(type='CustomDatset'))
    assert re.match(r'error: .*CustomDatset is not in the .*dataset registry', capsys.readouterr().err)
    monkeypatch.setenv('SERKD_MM_TRACEBACK', '1')
    with pytest.raises(DataError), one_line_errors():
        raise DataError


def write_to_full_disk():
    with open('/dev/full', 'w') as file:
        file.write('text')


def test_write_error_names_the_open_file(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        write_to_full_disk()
    assert capsys.readouterr().err == 'error: /dev/full: [Errno 28] No space left on device\n'


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError('b.jpg: is\nbroken.')


def test_error_of_a_worker_process_is_printed_without_its_traceback(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert capsys.readouterr().err == 'error: b.jpg: is broken.\n'


@pytest.mark.slow
def test_tools_list_the_flags_and_report_errors_in_one_line(image_root, tmp_path):
    assert '--overwrite' in run_python('tools/train.py', '--help')
    training_config(image_root, tmp_path / 'work').dump(tmp_path / 'config.py')
    overwrite = ['tools/train.py', tmp_path / 'config.py', '--overwrite', '--cfg-options', 'custom_hooks=[]']
    assert "error: --overwrite needs dict(type='WorkDirCheckHook')" in run_python(*overwrite, succeed=False)
    (tmp_path / 'child.py').write_text("_base_ = './config.py'\ncustom_hooks = [dict(type='EMAHook')]\n")
    child = ['tools/train.py', tmp_path / 'child.py', '--cfg-options', 'val_evaluator.type=Acuracy']
    printed = run_python(*child, succeed=False)
    assert printed.startswith('warning: custom_hooks lacks hooks of configs/_base_/runtime.py')
    assert re.search(r'^error: .*Acuracy is not in the .*registry', printed, re.MULTILINE)


@pytest.mark.slow
def test_error_of_one_rank_is_raised_on_all(tmp_path):
    run_ranks(__file__, 2, tmp_path)
    assert [(tmp_path / f'rank{rank}').read_text() for rank in (0, 1)] == ['a.pth is damaged'] * 2


def fail(rank):
    if rank == 1:
        raise CheckpointError('a.pth is damaged')


def run_rank(folder, rank):
    """Fail on rank 1, and write the error of each rank."""
    distributed.init_process_group('gloo', init_method=f'file://{folder}/ranks', world_size=2, rank=rank)
    with raise_on_all_ranks():
        pass
    with pytest.raises(CheckpointError) as raised, raise_on_all_ranks():
        fail(rank)
    Path(folder, f'rank{rank}').write_text(str(raised.value))
    leave_ranks()


if __name__ == '__main__':
    run_rank(sys.argv[1], int(sys.argv[2]))
