"""Safe loading reads what mmengine saves, and refuses code."""

import operator

import pytest
import torch
from builders import Command
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.utils import digit_version

from serkd_mm.fileio import CheckpointError, allow_mmengine_checkpoints, read_checkpoint

safe_by_default = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'), reason='safe loading is the default from torch 2.6'
)


@pytest.fixture(autouse=True)
def _allowed():
    allow_mmengine_checkpoints()


@safe_by_default
def test_mmengine_history_is_loaded(tmp_path):
    torch.save(dict(history=HistoryBuffer([1.0, 3.0], [1, 1])), tmp_path / 'x.pth')
    assert torch.load(tmp_path / 'x.pth', weights_only=True)['history'].mean() == 2.0


class _Attribute:
    """Unpickles as ``getattr(HistoryBuffer, '__init__')``, a first step to running any code."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


class _Call:
    """Unpickles as a call of a harmless function that is not on the list."""

    def __reduce__(self):
        return operator.add, (1, 2)


@safe_by_default
@pytest.mark.parametrize('content', [_Attribute(), _Call()])
def test_other_attributes_and_calls_are_refused(tmp_path, content):
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(Exception, match=r'refers to the attribute|Unsupported'):
        torch.load(tmp_path / 'x.pth', weights_only=True)


def test_read_checkpoint_returns_tensors_and_plain_values(tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.ones(2)), meta=dict(epoch=3)), tmp_path / 'x.pth')
    loaded = read_checkpoint(tmp_path / 'x.pth', 'key')
    assert loaded['meta'] == dict(epoch=3)
    assert loaded['state_dict']['weight'].tolist() == [1.0, 1.0]


def truncated(path):
    torch.save(dict(weight=torch.ones(1000)), path)
    path.write_bytes(path.read_bytes()[:1000])


def with_code(path):
    torch.save(dict(meta=Command(str(path.with_name('trap')))), path)


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (lambda path: None, r'^key: there is no such file$'),
        (lambda path: path.write_bytes(b''), r'^key cannot be read; is it complete\?'),
        (lambda path: path.write_text('404: not found'), r'^key cannot be read; is it complete\?'),
        (truncated, r'^key cannot be read; is it complete\?'),
        (with_code, r'^key holds more than weights, and is not read because it could run code\..*publish_model'),
    ],
    ids=['missing', 'empty', 'text', 'truncated', 'with_code'],
)
def test_unreadable_checkpoint_is_reported(write, message, tmp_path):
    write(tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / 'x.pth', 'key')
    assert not (tmp_path / 'trap').exists()
