"""The configs of the repository, made ready to be built without files of weights."""

import importlib
from pathlib import Path

import torch
from builders import CONFIGS, REPOSITORY
from hugging_face import write_cache, write_processor
from mmengine.config import Config
from mmpretrain.registry import MODELS

FILES = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
TRANSFER = [path for path in FILES if path.parent == CONFIGS / 'transfer']
LINEAR = [path for path in FILES if path.parent == CONFIGS / 'crd' / 'transfer']


def name_of(path):
    return str(path.relative_to(CONFIGS).with_suffix(''))


def load(path, monkeypatch, tmp_path=None):
    """Load a config without its files: the teacher may be random, and a distilled checkpoint is written to ``tmp_path``."""
    monkeypatch.chdir(REPOSITORY)
    config = Config.fromfile(path)
    if config.model.type == 'RelationDistiller':
        for teacher in (config.model.get('teachers') or {'teacher': config.model.teacher}).values():
            teacher.update(checkpoint=None, allow_random_teacher=True)
        if tmp_path and config.model.student.get('checkpoint'):
            config.model.student.checkpoint = str(tmp_path / 'student.pth')
            torch.save(
                MODELS.build(config.model.student.model).backbone.state_dict(prefix='backbone.'), tmp_path / 'student.pth'
            )
    elif path in TRANSFER:
        pretrained = config.model.backbone.init_cfg
        distilled = load(CONFIGS / 'serkd' / f'{Path(pretrained.checkpoint).parent.name}.py', monkeypatch)
        distilled.model.teacher = None
        pretrained.checkpoint = str(tmp_path / 'epoch_300.pth')
        torch.save(dict(state_dict=MODELS.build(distilled.model).state_dict()), pretrained.checkpoint)
    elif path in LINEAR:
        config.model.backbone.init_cfg.checkpoint = str(tmp_path / 'epoch_240.pth')
        torch.save(dict(state_dict=MODELS.build(config.model).state_dict()), tmp_path / 'epoch_240.pth')
    config.model.data_preprocessor = config.data_preprocessor
    return config


def write_repository(name, hub_cache, folder):
    """Write the config of the teacher ``hf:facebook/dinov2-small-imagenet1k-1-layer`` into a cache of the hub."""
    transformers = importlib.import_module('transformers')
    settings = dict(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14, num_labels=1000
    )
    architectures = ['Dinov2ForImageClassification']
    transformers.Dinov2Config(**settings, architectures=architectures).save_pretrained(folder)
    write_cache(hub_cache, name, write_processor(folder, 224))
