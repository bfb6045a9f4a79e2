"""Mixing, data and resuming of two real ranks; run as a script, this file is one rank."""

import os
import sys

import pytest
import torch
from builders import leave_ranks, run_ranks, training_config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import distributed

pytestmark = pytest.mark.slow

NUM_RANKS = 2


class Record(Hook):
    """Record which images a rank sees, and their soft labels after Mixup."""

    def __init__(self):
        self.images, self.labels = [], []

    def before_train(self, runner):
        model = runner.model.module
        self.initial = {name: value.clone() for name, value in model.state_dict().items()}
        model.data_preprocessor.register_forward_hook(self.record)

    def record(self, preprocessor, inputs, output):
        if preprocessor.training and output['data_samples'] is not None:
            self.labels.append(torch.stack([sample.gt_score for sample in output['data_samples']]))
            self.images.append([sample.img_path for sample in output['data_samples']])


def run_rank(root, folder, rank):
    """Train two epochs at once, then one and another one after resuming, and save what was seen."""
    os.environ['LOCAL_RANK'] = rank
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=int(rank), world_size=NUM_RANKS)
    changes = {
        'launcher': 'pytorch',
        'model_wrapper_cfg': {'type': 'MMDistributedDataParallel', 'device_ids': None},  # mmengine's default expects a GPU
        'train_dataloader.batch_size': 3,
        'model.student.model.train_cfg': {'augments': [{'type': 'Mixup', 'alpha': 0.8}]},
        'model.losses.loss_rd': None,
        'model.losses.loss_ra': None,
        'val_cfg': None,
        'val_dataloader': None,
        'val_evaluator': None,
    }
    seen = {}
    starts = {'whole': {}, 'first': {'train_cfg.max_epochs': 1}, 'second': {'resume': True}}
    for start, settings in starts.items():
        work_dir = f'{folder}/{"whole" if start == "whole" else "parts"}'
        runner = Runner.from_cfg(training_config(root, work_dir, **changes, **settings))
        record = Record()
        runner.register_hook(record)
        runner.train()
        seen[start] = {'images': record.images, 'labels': record.labels, 'initial': record.initial}
    torch.save(seen, f'{folder}/{rank}.pth')
    leave_ranks()


def test_ranks_mix_differently_share_the_sampler_and_resume_bit_for_bit(image_root, tmp_path):
    run_ranks(__file__, NUM_RANKS, image_root, tmp_path)
    ranks = [torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(NUM_RANKS)]
    whole = [rank['whole'] for rank in ranks]
    for name, value in whole[0]['initial'].items():
        assert torch.equal(value, whole[1]['initial'][name]), name
    for epoch in (slice(0, 2), slice(2, 4)):  # Two batches of three images in each epoch and rank.
        images = [name for rank in whole for batch in rank['images'][epoch] for name in batch]
        assert len(set(images)) == 12
        for one, other in zip(whole[0]['labels'][epoch], whole[1]['labels'][epoch], strict=True):
            assert set(one.flatten().tolist()) != set(other.flatten().tolist())
    for rank in ranks:
        resumed = rank['first']['labels'] + rank['second']['labels']
        assert all(torch.equal(*pair) for pair in zip(resumed, rank['whole']['labels'], strict=True))
        assert rank['first']['images'] + rank['second']['images'] == rank['whole']['images']
    files = [torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True) for name in ('whole', 'parts')]
    for name, value in files[0]['state_dict'].items():
        assert torch.equal(value, files[1]['state_dict'][name]), name


if __name__ == '__main__':
    run_rank(*sys.argv[1:])
