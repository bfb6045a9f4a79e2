"""A real training on repeatable views: exact resuming, worker processes, ranks and iteration-based loops."""

import os
import sys

import pytest
import torch
from builders import leave_ranks, run_ranks, training_config, write_images
from checkpoints import assert_equal_files
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import distributed
from training_variants import use_repeatable_views

pytestmark = pytest.mark.usefixtures('runner_scope')

AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
WITHOUT_VALIDATION = {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}
ITERATIONS = {
    'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=8, val_interval=8),
    'param_scheduler': [],
    'log_processor': {'by_epoch': False},
    'default_hooks.logger.log_metric_by_epoch': False,
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 4,
}


class Record(Hook):
    """Record the files, the preprocessed images and the labels of each training step."""

    def __init__(self):
        self.steps = []

    def before_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        model.data_preprocessor.register_forward_hook(self.record)

    def record(self, preprocessor, inputs, output):
        if output['data_samples'] is not None and preprocessor.training:
            samples = output['data_samples']
            scores = torch.stack([sample.gt_score for sample in samples])
            self.steps.append(([sample.img_path for sample in samples], output['inputs'], scores))


def train(root, work_dir, num_views=2, **changes):
    loop = changes.pop('train_cfg', None)
    config = training_config(root, work_dir, **WITHOUT_VALIDATION, **changes)
    if loop is not None:
        config.train_cfg = {name: value for name, value in loop.items() if name != '_delete_'}
    use_repeatable_views(config, num_views=num_views, augments=AUGMENTS, seed=4)
    runner = Runner.from_cfg(config)
    record = Record()
    runner.register_hook(record)
    runner.train()
    return record.steps


def assert_equal_steps(one, two):
    assert len(one) == len(two)
    for (files, images, scores), (other_files, other_images, other_scores) in zip(one, two, strict=True):
        assert files == other_files
        assert torch.equal(images, other_images)
        assert torch.equal(scores, other_scores)


@pytest.mark.slow
def test_training_resumes_bit_for_bit_and_workers_change_nothing(image_root, tmp_path):
    whole = train(image_root, tmp_path / 'whole')
    assert len(whole) == 6
    for epoch in (0, 1):
        files = [file for step in whole[3 * epoch : 3 * epoch + 3] for file in step[0]]
        assert len(files) == len(set(files)) == 12
    assert any((scores.max(1).values < 1).any() for _, _, scores in whole)
    parts = train(image_root, tmp_path / 'parts', **{'train_cfg.max_epochs': 1})
    parts += train(image_root, tmp_path / 'parts', resume=True)
    assert_equal_steps(parts, whole)
    assert_equal_files(tmp_path / 'parts' / 'epoch_2.pth', tmp_path / 'whole' / 'epoch_2.pth')
    workers = {'train_dataloader.num_workers': 2}
    assert_equal_steps(train(image_root, tmp_path / 'workers', **workers), whole)
    assert_equal_files(tmp_path / 'workers' / 'epoch_2.pth', tmp_path / 'whole' / 'epoch_2.pth')


def test_epochs_of_one_view_see_the_same_mixed_images(image_root, tmp_path):
    steps = train(image_root, tmp_path / 'work', **{'train_cfg.max_epochs': 3})
    views = [{image.numpy().tobytes() for _, images, _ in steps[3 * e : 3 * e + 3] for image in images} for e in range(3)]
    assert views[0] == views[2]
    assert views[0].isdisjoint(views[1])
    order = [[step[0] for step in steps[3 * e : 3 * e + 3]] for e in range(3)]
    assert order[0] != order[2]


def test_iteration_based_training_passes_through_the_views_and_resumes(image_root, tmp_path):
    whole = train(image_root, tmp_path / 'whole', **ITERATIONS)
    assert len(whole) == 8
    passes = [[file for step in whole[start : start + 3] for file in step[0]] for start in (0, 3)]
    assert all(len(set(files)) == 12 for files in passes)
    images = [{image.numpy().tobytes() for step in whole[start : start + 3] for image in step[1]} for start in (0, 3)]
    assert images[0].isdisjoint(images[1])
    last = {image.numpy().tobytes() for step in whole[6:8] for image in step[1]}
    assert last <= images[0]  # The third pass is on view 0 again.
    parts = train(image_root, tmp_path / 'parts', **{**ITERATIONS, 'train_cfg': dict(ITERATIONS['train_cfg'], max_iters=4)})
    parts += train(image_root, tmp_path / 'parts', **ITERATIONS, resume=True)
    assert_equal_steps(parts, whole)
    assert_equal_files(tmp_path / 'parts' / 'iter_8.pth', tmp_path / 'whole' / 'iter_8.pth')


def run_rank(root, folder, rank):
    """Train an epoch as one of two ranks with batches of 2, and save what was seen."""
    os.environ['LOCAL_RANK'] = rank
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=int(rank), world_size=2)
    ranks = {
        'launcher': 'pytorch',
        'model_wrapper_cfg': {'type': 'MMDistributedDataParallel', 'device_ids': None},  # mmengine's default expects a GPU
        'train_dataloader.batch_size': 2,
        'model.losses.loss_rd': None,
        'model.losses.loss_ra': None,
    }
    torch.save(train(root, f'{folder}/work', **ranks), f'{folder}/{rank}.pth')
    leave_ranks()


@pytest.mark.slow
def test_two_ranks_see_the_mixed_images_of_one_in_each_step(tmp_path):
    root = write_images(tmp_path / 'images', per_class=3)
    run_ranks(__file__, 2, root, tmp_path)
    ranks = [torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1)]
    one = train(root, tmp_path / 'one')
    assert len(one) == len(ranks[0]) == len(ranks[1]) == 6
    for step, parts in zip(one, zip(*ranks, strict=True), strict=True):
        assert_same_images(step, parts)


def assert_same_images(step, parts):
    """Compare a step of one rank with the steps of two, whose pairs take turns."""
    together = [(file, image, score) for part in parts for file, image, score in zip(*part, strict=True)]
    by_file = {file: (image, score) for file, image, score in together}
    assert len(by_file) == len(together)
    for file, image, score in zip(*step, strict=True):
        assert torch.equal(by_file[file][0], image)
        assert torch.equal(by_file[file][1], score)


if __name__ == '__main__':
    run_rank(*sys.argv[1:])
