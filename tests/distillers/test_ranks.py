"""Gradients of several ranks, each in a separate process; run as a script, this file is one rank."""

import sys

import pytest
import torch
from builders import build_distiller, images, labels, leave_ranks, run_ranks
from mmengine.model import MMDistributedDataParallel
from torch import distributed

pytestmark = pytest.mark.slow

NUM_RANKS, BATCH = 2, 3
LOSSES = {
    'serkd': {},
    'rkd': {
        'losses__loss_distance': dict(type='InstanceDistanceLoss', on='tokens', loss_weight=100.0),
        'losses__loss_angle': dict(type='InstanceAngleLoss', on='tokens', loss_weight=100.0),
    },
    'dist': {
        'losses__loss_kd': dict(type='DISTLoss', on='logits', loss_weight=100.0),
        'student__taps__dense': 'backbone.layers[-1] | head.layers.head_dist',
        'teacher__taps__dense': 'backbone.layers[-1] | head.fc',
        'views__dense_tokens': dict(tap='dense', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger')),
        'losses__loss_dense': dict(type='DenseLogitsLoss', on='dense_tokens'),
    },
}


def gradients(model, inputs, data_samples):
    """Return the gradients of all trained parameters by name."""
    total, _ = model.parse_losses(model(inputs, data_samples, mode='loss'))
    total.backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def run_rank(rank, folder, losses):
    """Take one step on the images of one rank under DDP, and save its gradients in ``folder``."""
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=NUM_RANKS)
    distiller = build_distiller(**LOSSES[losses])
    model = MMDistributedDataParallel(distiller)  # find_unused_parameters is False
    total, _ = distiller.parse_losses(model(images_of(rank), labels_of(rank), mode='loss'))
    total.backward()
    torch.save({name: weight.grad for name, weight in distiller.named_parameters()}, f'{folder}/{rank}.pth')
    leave_ranks()


def images_of(rank):
    return images(BATCH * NUM_RANKS)[rank * BATCH : (rank + 1) * BATCH]


def labels_of(rank):
    return labels(BATCH * NUM_RANKS)[rank * BATCH : (rank + 1) * BATCH]


@pytest.mark.parametrize('losses', LOSSES)
def test_gradients_of_two_ranks_equal_those_of_one_process(losses, tmp_path):
    run_ranks(__file__, NUM_RANKS, tmp_path, losses)
    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(NUM_RANKS))
    assert all(torch.equal(first[name], second[name]) for name in first)

    if losses == 'serkd':  # Every loss is a mean over images, so the mean of the ranks is the loss of one large batch.
        expected = gradients(build_distiller(), images(BATCH * NUM_RANKS), labels(BATCH * NUM_RANKS))
    else:  # RKD, and DIST in its part between images, compare the images of each rank's batch.
        parts = [gradients(build_distiller(**LOSSES[losses]), images_of(r), labels_of(r)) for r in range(NUM_RANKS)]
        expected = {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}
        together = gradients(build_distiller(**LOSSES[losses]), images(BATCH * NUM_RANKS), labels(BATCH * NUM_RANKS))
        name = 'student.backbone.layers.0.attn.qkv.weight'
        assert (together[name] - expected[name]).abs().max() > 1e-3 * expected[name].abs().max()
    assert first.keys() == expected.keys()
    for name, gradient in first.items():
        scale = expected[name].abs().max()
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * scale.item() + 1e-8, msg=name)


if __name__ == '__main__':
    run_rank(int(sys.argv[3]), sys.argv[1], sys.argv[2])
