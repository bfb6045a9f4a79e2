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


def with_a_flipped_bit(path):
    weight = torch.arange(1000.0)
    torch.save(dict(weight=weight), path)
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 2001] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)['weight'].isfinite().all()  # torch does not notice.


def page(path):
    path.write_text('\n<!DOCTYPE html><html>Please log in</html>')


def with_code(path):
    torch.save(dict(meta=Command(str(path.with_name('trap')))), path)


@pytest.mark.parametrize(
    ('write', 'message'),
    [
        (lambda path: None, r'^key: there is no such file$'),
        (lambda path: path.write_bytes(b''), r'^key cannot be read; is it complete\?'),
        (lambda path: path.write_text('404: not found'), r'^key cannot be read; is it complete\?'),
        (truncated, r'^key cannot be read; is it complete\?'),
        (page, r'^key cannot be read; is it complete\? It is a web page$'),
        (with_a_flipped_bit, r"^key is damaged: its record 'x/data/0' does not have the checksum that it was saved with$"),
        (with_code, r'^key holds more than weights, and is not read because it could run code\..*publish_model'),
    ],
    ids=['missing', 'empty', 'text', 'truncated', 'page', 'damaged', 'with_code'],
)
def test_unreadable_checkpoint_is_reported(write, message, tmp_path):
    write(tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / 'x.pth', 'key')
    assert not (tmp_path / 'trap').exists()


def test_damaged_checkpoint_is_refused_or_read_as_it_was(tmp_path):
    # A few hundred of the bits of a small file, in the records and in the tables of the zip archive.
    path, weight = tmp_path / 'x.pth', torch.arange(40.0)
    torch.save(dict(weight=weight, meta=dict(epoch=3)), path)
    content, refused = path.read_bytes(), 0
    for index in range(0, len(content), 5):
        path.write_bytes(content[:index] + bytes([content[index] ^ 1 << index % 8]) + content[index + 1 :])
        try:
            loaded = read_checkpoint(path, 'key')
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(loaded['weight'], weight), index
            assert loaded['meta'] == dict(epoch=3), index
    assert refused > 100


@pytest.mark.parametrize('settings', [dict(_use_new_zipfile_serialization=False), dict(checksums=False)], ids=str)
def test_checkpoint_without_checksums_is_read(settings, tmp_path):
    checksums = settings.pop('checksums', True)
    if not checksums:
        if not hasattr(torch.serialization, 'set_crc32_options'):
            pytest.skip('older torch always saves checksums')
        torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(weight=torch.ones(2)), tmp_path / 'x.pth', **settings)
    finally:
        if not checksums:
            torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / 'x.pth', 'key')['weight'].tolist() == [1.0, 1.0]
