"""A hook for distributed_check.py: every rank reports its process group, its device and its weights."""

import hashlib
import json
import os
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import distributed


@HOOKS.register_module()
class RankReportHook(Hook):
    """Write ``rank<number>.json`` into the work folder after training."""

    def after_train(self, runner: Runner) -> None:
        """Write the report of this rank."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        digest = hashlib.sha256()
        for tensor in model.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        device = next(model.parameters()).device
        grouped = distributed.is_initialized()
        found = {
            'backend': distributed.get_backend() if grouped else None,
            'world_size': distributed.get_world_size() if grouped else 1,
            'device': f'{device} ({torch.cuda.get_device_name(device)})' if device.type == 'cuda' else f'cpu {os.getpid()}',
            'weights': digest.hexdigest(),
            'iterations': runner.iter,
        }
        (Path(runner.work_dir) / f'rank{runner.rank}.json').write_text(json.dumps(found))
