"""Safe loading reads what mmengine saves, and nothing that runs."""

import operator

import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.utils import digit_version

from serkd_mm.fileio import allow_mmengine_checkpoints

pytestmark = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'), reason='safe loading is the default from torch 2.6'
)


@pytest.fixture(autouse=True)
def _allowed():
    allow_mmengine_checkpoints()


def test_mmengine_s_history_is_read(tmp_path):
    torch.save(dict(history=HistoryBuffer([1.0, 3.0], [1, 1])), tmp_path / 'x.pth')
    assert torch.load(tmp_path / 'x.pth', weights_only=True)['history'].mean() == 2.0


class _Attribute:
    """Unpickles as ``getattr(HistoryBuffer, '__init__')``, a first step to anything."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


class _Call:
    """Unpickles as a call of a harmless function that is not on the list."""

    def __reduce__(self):
        return operator.add, (1, 2)


@pytest.mark.parametrize('content', [_Attribute(), _Call()])
def test_other_attributes_and_calls_are_refused(tmp_path, content):
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(Exception, match=r'refers to the attribute|Unsupported'):
        torch.load(tmp_path / 'x.pth', weights_only=True)
