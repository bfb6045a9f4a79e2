"""Two ranks whose teacher is downloaded by one of them; run as a script, this file is one rank."""

import os
import sys
import time
from datetime import timedelta

import file_server
import pytest
import torch
from builders import TEACHER, build_distiller, run_ranks
from mmpretrain.registry import MODELS
from torch import distributed

pytestmark = pytest.mark.slow

NUM_RANKS = 2
GROUP_SECONDS = 5  # The process group times out before the slow download ends.


def run_rank(rank, folder, url):
    """Load the teacher; write a weight of it, or the error, and the seconds that it took."""
    os.environ.update(LOCAL_RANK=str(rank), TORCH_HOME=f'{folder}/cache', SERKD_MM_DOWNLOAD_TIMEOUT='2')
    timeout = timedelta(seconds=GROUP_SECONDS)
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2, timeout=timeout)
    start, outcome = time.monotonic(), {}
    try:
        if url.startswith('/'):  # Each rank as on a machine of its own.
            url = url.format(rank=rank)
        model = build_distiller(teacher__checkpoint=url, teacher__allow_random_teacher=False)
        outcome['weight'] = model.teacher.model.head.fc.weight
    except ValueError as error:
        outcome['error'] = str(error)
    torch.save(dict(outcome, seconds=time.monotonic() - start), f'{folder}/{rank}.pth')
    distributed.destroy_process_group()


def outcomes(url, folder):
    run_ranks(__file__, NUM_RANKS, folder, url)
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(NUM_RANKS)]


@pytest.fixture
def teacher(tmp_path):
    """The file of a teacher."""
    torch.save(MODELS.build(dict(TEACHER)).state_dict(), tmp_path / 'teacher.pth')
    return tmp_path / 'teacher.pth'


def test_download_that_takes_longer_than_the_group_s_timeout(teacher, tmp_path):
    with file_server.file_server() as server:
        url = server.serve('teacher.pth', teacher.read_bytes(), file_server.slow)
        ranks = outcomes(url, tmp_path)
    assert len(server.requests) == 1
    expected = torch.load(teacher, weights_only=True)['head.fc.weight']
    for rank in ranks:
        assert torch.equal(rank['weight'], expected)
        assert rank['seconds'] > GROUP_SECONDS + 1


def test_server_that_stalls_is_reported_on_all_ranks(teacher, tmp_path):
    with file_server.file_server() as server:
        ranks = outcomes(server.serve('teacher.pth', teacher.read_bytes(), file_server.stalled), tmp_path)
    for rank in ranks:
        assert 'could not be fetched: TimeoutError: timed out' in rank['error']
        assert rank['seconds'] < 20


def test_different_or_damaged_files_of_two_machines_are_reported_on_all_ranks(teacher, tmp_path):
    weights = torch.load(teacher, weights_only=True)
    for rank in range(NUM_RANKS):
        torch.save(weights | {'head.fc.bias': torch.full((4,), float(rank))}, tmp_path / f'machine{rank}.pth')
    (tmp_path / 'a').mkdir()
    for rank in outcomes(str(tmp_path / 'machine{rank}.pth'), tmp_path / 'a'):
        assert 'the machines have different files of this name' in rank['error']

    content = (tmp_path / 'machine1.pth').read_bytes()
    (tmp_path / 'machine1.pth').write_bytes(content[: len(content) // 2])
    (tmp_path / 'b').mkdir()
    for rank in outcomes(str(tmp_path / 'machine{rank}.pth'), tmp_path / 'b'):
        assert 'machine1.pth' in rank['error']
        assert 'cannot be read; is it complete?' in rank['error']


if __name__ == '__main__':
    run_rank(int(sys.argv[3]), sys.argv[1], sys.argv[2])
