import numpy as np
import pytest
import torch
from builders import run_python
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.optim import MultiStepLR

from serkd_mm.hooks import PlainCheckpointHook


def test_history_is_restored_bit_for_bit_and_the_file_holds_only_plain_values(tmp_path):
    history = HistoryBuffer([0.1, 2.5, np.float64(1 / 3)], [1, 2, 3], max_length=7)
    checkpoint = dict(
        meta=dict(epoch=3, cfg='x = 1', dataset_meta=dict(classes=('a', 'b'), palette=np.arange(3))),
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(
            log_scalars={'train/loss': history}, runtime_info=dict(eta=np.float64(5.5)), resumed_keys={'train/loss': True}
        ),
    )
    hook, path = PlainCheckpointHook(), tmp_path / 'epoch_3.pth'
    hook.before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, path)
    # In a process that does not import this package, where torch allows only its default classes.
    run_python('-c', f'import torch; torch.load({str(path)!r}, weights_only=True)')
    loaded = torch.load(path, weights_only=True)
    hook.after_load_checkpoint(None, loaded)
    restored = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(restored, HistoryBuffer)
    assert restored.max_length == 7
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(restored.data, history.data, strict=True))
    assert loaded['message_hub']['runtime_info']['eta'] == 5.5
    assert loaded['meta']['dataset_meta']['classes'] == ('a', 'b')
    assert loaded['meta']['dataset_meta']['palette'].tolist() == [0, 1, 2]


def test_milestones_of_a_schedule_are_saved_as_plain_values_and_restored(tmp_path):
    def schedule():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, MultiStepLR(optimizer, milestones=[2, 3], gamma=0.1)

    checkpoint = dict(message_hub={}, meta={}, param_schedulers=[schedule()[1].state_dict()])
    PlainCheckpointHook().before_save_checkpoint(None, checkpoint)
    assert type(checkpoint['param_schedulers'][0]['milestones']) is dict
    torch.save(checkpoint, tmp_path / 'x.pth')
    optimizer, resumed = schedule()
    resumed.load_state_dict(torch.load(tmp_path / 'x.pth', weights_only=True)['param_schedulers'][0])
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        resumed.step()
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_checkpoint_without_training_state_is_unchanged():
    checkpoint = dict(state_dict={})
    PlainCheckpointHook().after_load_checkpoint(None, checkpoint)
    assert checkpoint == dict(state_dict={})
