"""Two ranks whose teacher is downloaded by one of them; run as a script, this file is one rank."""

import os
import sys
import time
from datetime import timedelta

import file_server
import pytest
import torch
from builders import TEACHER, distiller_config, leave_ranks, run_ranks
from mmpretrain.registry import MODELS
from torch import distributed

pytestmark = pytest.mark.slow

NUM_RANKS = 2
GROUP_SECONDS = 5  # The process group times out before the slow download ends.


def run_rank(rank, folder, urls):
    """Load a teacher from each URL; write a weight of it, or the error, and the seconds that it took."""
    os.environ.update(LOCAL_RANK=str(rank), TORCH_HOME=f'{folder}/cache', SERKD_MM_DOWNLOAD_TIMEOUT='2')
    timeout = timedelta(seconds=GROUP_SECONDS)
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2, timeout=timeout)
    outcomes = []
    for url in urls:
        start, outcome = time.monotonic(), {}
        # A path with {rank} is a file of that name on two machines.
        config = distiller_config(teacher__checkpoint=url.format(rank=rank), teacher__allow_random_teacher=False)
        try:
            model = MODELS.build(config)
            model.teacher.load()
            outcome['weight'] = model.teacher.model.head.fc.weight
        except ValueError as error:
            outcome['error'] = str(error)
        outcomes.append(dict(outcome, seconds=time.monotonic() - start))
    torch.save(outcomes, f'{folder}/{rank}.pth')
    leave_ranks()


def test_ranks_agree_on_a_slow_download_a_stalled_one_and_files_that_differ(tmp_path):
    weights = MODELS.build(dict(TEACHER)).state_dict()
    paths = []
    for name in ('teacher', 'different0', 'different1', 'damaged0', 'damaged1'):
        paths.append(tmp_path / f'{name}.pth')
        torch.save(weights | {'head.fc.bias': torch.full((4,), float(name == 'different1'))}, paths[-1])
    content = paths[0].read_bytes()
    paths[-1].write_bytes(content[: len(content) // 2])
    with file_server.file_server() as server:
        urls = [server.serve('slow.pth', content, file_server.slow), server.serve('x.pth', content, file_server.stalled)]
        urls += [str(tmp_path / 'different{rank}.pth'), str(tmp_path / 'damaged{rank}.pth')]
        run_ranks(__file__, NUM_RANKS, tmp_path, *urls)
    assert len(server.requests) == 2  # One rank downloads.
    for rank in range(NUM_RANKS):
        slow, stalled, different, damaged = torch.load(tmp_path / f'{rank}.pth', weights_only=True)
        assert torch.equal(slow['weight'], weights['head.fc.weight'])
        assert slow['seconds'] > GROUP_SECONDS + 1
        assert 'could not be fetched: TimeoutError: timed out' in stalled['error']
        assert stalled['seconds'] < 15
        assert 'the machines have different files of this name' in different['error']
        assert 'damaged1.pth' in damaged['error']
        assert 'cannot be read; is it complete?' in damaged['error']


if __name__ == '__main__':
    run_rank(int(sys.argv[-1]), sys.argv[1], sys.argv[2:-1])
