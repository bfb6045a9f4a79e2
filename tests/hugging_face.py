"""Models of Hugging Face for tests: written by transformers itself, in folders and in a cache of the hub."""

import hashlib
import json
from pathlib import Path

import pytest

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
TINY = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    mlp_ratio=2,
    image_size=56,
    patch_size=14,
)


def write_model(folder: Path, model, size: int = 56) -> Path:
    """Write a model of transformers, and the config of an image processor, into a folder."""
    model.save_pretrained(folder)
    return write_processor(folder, size)


def write_processor(folder: Path, size: int = 56) -> Path:
    """Write the config of an image processor, as ``ViTImageProcessor`` saves it."""
    sizes = dict(size=dict(shortest_edge=size + 8), crop_size=dict(height=size, width=size))
    steps = dict.fromkeys(('do_resize', 'do_center_crop', 'do_rescale', 'do_normalize'), True)
    content = dict(**steps, **sizes, rescale_factor=1 / 255, image_mean=MEAN, image_std=STD)
    (folder / 'preprocessor_config.json').write_text(json.dumps(content))
    return folder


def write_cache(cache: Path, repository: str, folder: Path) -> Path:
    """Write the files of a folder into a cache of the hub as those of a repository; return its folder in the cache."""
    own = cache / f'models--{repository.replace("/", "--")}'
    commit = '0123456789' * 4
    for name in ('blobs', 'refs', f'snapshots/{commit}'):
        (own / name).mkdir(parents=True)
    (own / 'refs' / 'main').write_text(commit)
    for file in folder.iterdir():
        content = file.read_bytes()
        # The hub names large files by their SHA-256, and small ones by the SHA-1 of git.
        digest = (hashlib.sha256 if file.suffix in ('.safetensors', '.bin') else hashlib.sha1)(content).hexdigest()
        (own / 'blobs' / digest).write_bytes(content)
        (own / 'snapshots' / commit / file.name).symlink_to(Path('../../blobs') / digest)
    return own


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, which is offline: as ``HF_HUB_CACHE`` and ``HF_HUB_OFFLINE=1`` set it."""
    constants = pytest.importorskip('huggingface_hub.constants')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    return tmp_path / 'hub'
