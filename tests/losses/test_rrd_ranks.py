"""The queue of RRD on several ranks, each a separate process that runs this file as a script."""

import sys

import pytest
import torch
from builders import build_distiller, images, labels, leave_ranks, run_ranks
from mmengine.model import MMDistributedDataParallel
from torch import distributed

pytestmark = pytest.mark.slow

NUM_RANKS = 2
QUEUE_SIZE = 16
# Images of each rank at each step; ranks differ, and some batches are odd. 31 in total, so the queue wraps around.
BATCHES = [(4, 4), (3, 3), (1, 4), (5, 2), (2, 3)]


def train(rank, folder):
    """Train a distiller with RRD for five steps on one rank, and save its state in ``folder``."""
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=NUM_RANKS)
    torch.manual_seed(rank)  # Ranks start with different weights; DDP broadcasts those of rank 0.
    loss = dict(type='RRDLoss', on='tokens', queue_size=QUEUE_SIZE, embed_dim=8)
    distiller = build_distiller(losses__loss_rrd=loss)
    if rank:
        for weight in distiller.distill.parameters():
            torch.nn.init.normal_(weight)
    model = MMDistributedDataParallel(distiller)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step, batches in enumerate(BATCHES):
        seed, batch = NUM_RANKS * step + rank, batches[rank]
        terms = model(images(batch, seed=seed), labels(batch), mode='loss')
        total, _ = distiller.parse_losses(terms)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    torch.save(distiller.state_dict(), f'{folder}/{rank}.pth')
    leave_ranks()


def test_all_ranks_have_the_same_queue(tmp_path):
    run_ranks(__file__, NUM_RANKS, tmp_path)
    states = [torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(NUM_RANKS)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    rrd = {
        name.removeprefix('distill.losses.loss_rrd.patches.'): value
        for name, value in states[0].items()
        if name.startswith('distill.losses.loss_rrd.patches.')
    }
    assert rrd['num_enqueued'] == sum(map(sum, BATCHES))
    torch.testing.assert_close(rrd['queue'], expected_queue(rrd))


def expected_queue(rrd):
    """The teacher's embeddings, rank by rank and step by step; number n is in slot n modulo the size of the queue."""
    distiller = build_distiller()
    distiller.teacher.load()
    queue = torch.zeros(QUEUE_SIZE, 8)
    number = 0
    for step, batches in enumerate(BATCHES):
        for rank, batch in enumerate(batches):
            features = distiller.teacher(images(batch, seed=NUM_RANKS * step + rank))['patches']
            for tokens in features.tensor[:, features.num_extra_tokens :]:
                mapped = rrd['teacher_map.weight'] @ tokens.mean(dim=0) + rrd['teacher_map.bias']
                queue[number % QUEUE_SIZE] = mapped / mapped.norm()
                number += 1
    return queue


if __name__ == '__main__':
    train(int(sys.argv[2]), sys.argv[1])
