"""The teacher's weights from a URL, served by a real server."""

import copy
import hashlib
import io
import os
import time
from functools import partial
from pathlib import Path

import file_server
import pytest
import torch
from builders import PREPROCESSOR, TEACHER
from file_server import PAGE
from mmengine.config import Config
from mmpretrain.apis import ModelHub
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.frozen_teacher import FrozenTeacher
from serkd_mm.distillers.input_statistics import InputStatistics
from serkd_mm.model_sources.weights_file import WeightsFile, published_hash


@pytest.fixture
def server():
    with file_server.file_server() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of downloads, which does not exist yet; and no settings of the machine."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
    monkeypatch.setenv('SERKD_MM_DOWNLOAD_TIMEOUT', '0.6')
    for name in [name for name in os.environ if name.lower().endswith('_proxy')]:
        monkeypatch.delenv(name)
    return tmp_path / 'cache' / 'hub' / 'checkpoints'


def saved_teacher(seed=0) -> bytes:
    """Return the file of a teacher with seeded weights."""
    torch.manual_seed(seed)
    file = io.BytesIO()
    torch.save(dict(state_dict=MODELS.build(copy.deepcopy(TEACHER)).state_dict()), file)
    return file.getvalue()


def head_weight(content: bytes) -> torch.Tensor:
    return torch.load(io.BytesIO(content), weights_only=True)['state_dict']['head.fc.weight']


def load_teacher(checkpoint, model=TEACHER) -> torch.Tensor:
    """Build a teacher as the distiller does, and load its weights; return one of them."""
    taps = dict(patches='backbone.layers[-1]', logits='head.fc')
    statistics = InputStatistics.from_preprocessor(MODELS.build(dict(PREPROCESSOR, type='ClsDataPreprocessor')))
    teacher = FrozenTeacher(dict(model=model, checkpoint=checkpoint, taps=taps), set(taps), statistics, (3, 32, 32))
    teacher.load()
    return teacher.model.head.fc.weight


def zoo_teacher(server, monkeypatch, tmp_path, content, digits=None):
    """Register a teacher in mmpretrain's zoo, with weights on the server; return its name and the name of the file."""
    Config(dict(model=TEACHER, data_preprocessor=PREPROCESSOR)).dump(tmp_path / 'teacher.py')
    name = f'teacher_20261121-{digits or hashlib.sha256(content).hexdigest()[:8]}.pth'
    (tmp_path / 'metafile.yml').write_text(
        'Collections:\n  - Name: Served\nModels:\n  - Name: served-teacher\n    In Collection: Served\n'
        f'    Config: teacher.py\n    Weights: {server.serve(name, content)}\n'
    )
    (tmp_path / 'model-index.yml').write_text('Import:\n  - metafile.yml\n')
    ModelHub._register_mmpretrain_models()
    monkeypatch.setattr(ModelHub, '_models_dict', dict(ModelHub._models_dict))
    ModelHub.register_model_index(tmp_path / 'model-index.yml', tmp_path)
    return 'served-teacher', name


def test_urls_with_equal_file_names_are_different_files_and_each_is_downloaded_once(server, cache):
    files = {'a/teacher.pth': saved_teacher(1), 'b/teacher.pth': saved_teacher(2)}
    urls = {server.serve(path, content): content for path, content in files.items()}
    for _ in range(2):
        for url, content in urls.items():
            assert torch.equal(load_teacher(url), head_weight(content))
    assert len(server.requests) == 2
    assert len(list(cache.iterdir())) == 2


def test_only_what_identifies_the_file_is_in_the_cached_name():
    def name(url):
        return WeightsFile(url).cached.name

    same = 'https://host/x.pth?X-Amz-Signature=1&Expires=2', 'https://user:secret@host/x.pth', 'https://host/x.pth#part'
    assert {name(url) for url in same} == {name('https://host/x.pth')}
    other = 'https://host/y/x.pth', 'https://host:81/x.pth', 'https://host/x.pth?id=1', 'https://host/x.pth?id=2'
    assert len({name(url) for url in (*other, *same)}) == 5
    assert name('https://host/get?id=1').startswith('get-')
    assert name('https://host/').startswith('checkpoint-')


def test_file_placed_by_hand_under_the_plain_name_is_found_without_a_connection(server, cache, logged):
    url = server.url('teacher.pth')  # 404
    cache.mkdir(parents=True)
    (cache / 'teacher.pth').write_bytes(content := saved_teacher())
    assert torch.equal(load_teacher(url), head_weight(content))
    assert any(f'Using {cache / "teacher.pth"}' in message and '404' in message for message in logged)
    server.serve('teacher.pth', other := saved_teacher(3))  # With a connection, the URL's own file.
    assert torch.equal(load_teacher(url), head_weight(other))


def test_published_hash_of_zoo_weights_is_checked(server, cache, monkeypatch, tmp_path):
    content = saved_teacher()
    model, name = zoo_teacher(server, monkeypatch, tmp_path, content)
    load = partial(load_teacher, True, model=model)
    cache.mkdir(parents=True)
    (cache / name).write_bytes(content)  # By hand, or by mmengine.
    assert torch.equal(load(), head_weight(content))
    assert server.requests == []

    (cache / name).write_bytes(saved_teacher(5))  # Another file of this name is not used,
    assert torch.equal(load(), head_weight(content))
    assert len(server.requests) == 1

    (cached,) = set(cache.iterdir()) - {cache / name}
    cached.write_bytes(saved_teacher(5))  # nor is one that was changed after the download,
    with pytest.raises(ConfigError, match=rf'{cached} is damaged: its SHA-256 starts with .*Delete it'):
        load()

    cached.unlink()
    server.files.clear()  # and not without a connection either.
    with pytest.raises(ConfigError, match=rf'404.*{cache / name} is not this file: its SHA-256 starts with'):
        load()


def test_download_without_the_published_hash_is_refused(server, cache, monkeypatch, tmp_path):
    model, _ = zoo_teacher(server, monkeypatch, tmp_path, saved_teacher(), digits='0123abcd')
    with pytest.raises(
        ConfigError, match=r'not the published file: its SHA-256 starts with \w{8}, the published one with 0123abcd'
    ):
        load_teacher(True, model=model)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ('url', 'in_zoo', 'digits'),
    [
        (
            'https://download.openmmlab.com/mmclassification/v0/resnet/resnet101_8xb32_in1k_20210831-539c63f8.pth',
            False,
            '539c63f8',
        ),
        ('https://download.pytorch.org/models/resnet101-cd907fc2.pth', False, 'cd907fc2'),
        ('https://mirror.example.org/resnet101_8xb32_in1k_20210831-539c63f8.pth', True, '539c63f8'),
        ('https://mirror.example.org/teacher-20261121.pth', False, None),  # A date.
        ('https://dl.fbaipublicfiles.com/mae/finetune/mae_finetuned_vit_base.pth', False, None),
    ],
)
def test_published_hash_is_read_where_names_have_one(url, in_zoo, digits):
    assert published_hash(url, in_zoo) == digits


@pytest.mark.parametrize(
    ('answer', 'reason'),
    [
        (file_server.truncated, r'the server announced \d+ bytes, but sent \d+'),
        (file_server.truncated_without_length, r'what the server sent cannot be read; is it complete\?'),
        (file_server.truncated_chunk, 'IncompleteRead'),
        (file_server.page, r'what the server sent cannot be read; is it complete\? It is a web page'),
        (file_server.login, 'It is a web page'),
        (file_server.error(404), 'the server answers 404 Not Found'),
        (file_server.error(500), 'the server answers 500'),
        (file_server.error(401), r'the server answers 401 Unauthorized; put user name and password into ~/\.netrc'),
        (file_server.redirect('http://127.0.0.1:1/?token=hush'), 'refused'),
        (file_server.silent, 'timed out'),
        (file_server.stalled, 'timed out'),
        (file_server.dripping, r'sent only \d+ bytes in \d+ seconds'),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_failed_download_is_reported_and_leaves_nothing(answer, reason, server, cache):
    url = server.serve('teacher.pth', saved_teacher(), answer)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=rf"^model\.teacher\.checkpoint='{url}' could not be fetched: .*{reason}") as error:
        load_teacher(url)
    assert time.monotonic() - start < 8
    assert f'copy the file to {WeightsFile(url).cached}, or give its path instead' in str(error.value)
    assert 'hush' not in str(error.value)
    assert list(cache.iterdir()) == []
    server.answers.clear()
    assert load_teacher(url) is not None


def test_redirects_are_followed(server, cache):
    content = saved_teacher()
    url = server.serve('teacher.pth', b'', file_server.redirect(server.serve('storage/1', content)))
    assert torch.equal(load_teacher(url), head_weight(content))


@pytest.mark.parametrize('content', [PAGE, saved_teacher()[:-200], b''], ids=['page', 'truncated', 'empty'])
def test_damaged_file_in_the_cache_is_named(content, server, cache):
    url = server.serve('teacher.pth', saved_teacher())
    load_teacher(url)
    (cached,) = cache.iterdir()
    cached.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"'{url}' \(in {cached}\) cannot be read.*Delete {cached} to download it again"):
        load_teacher(url)


def test_what_killed_downloads_left_is_removed_and_running_ones_stay(server, cache):
    url = server.serve('teacher.pth', saved_teacher())
    cache.mkdir(parents=True)
    killed, running = (cache / f'.{WeightsFile(url).cached.name}.{name}.partial' for name in 'ab')
    for path in (killed, running):
        path.write_bytes(b'')
    os.utime(killed, (0, 0))
    load_teacher(url)
    assert not killed.exists()
    assert running.exists()


@pytest.mark.parametrize('setting', ['soon', '0', '-1', 'nan', 'inf'])
def test_wrong_timeout_is_reported(setting, server, cache, monkeypatch):
    monkeypatch.setenv('SERKD_MM_DOWNLOAD_TIMEOUT', setting)
    with pytest.raises(ConfigError, match=f"SERKD_MM_DOWNLOAD_TIMEOUT='{setting}' must be a positive number"):
        load_teacher(server.serve('teacher.pth', saved_teacher()))


def test_password_of_netrc_is_sent_to_its_host_alone(server, cache, tmp_path):
    content = saved_teacher()
    url = server.serve('private.pth', content, file_server.private('ann', 'hush'))
    (tmp_path / 'netrc').write_text('machine 127.0.0.1 login ann password hush\n')
    (tmp_path / 'netrc').chmod(0o600)
    assert torch.equal(load_teacher(url), head_weight(content))
    with file_server.file_server() as other:
        other_url = other.serve('x.pth', content).replace('127.0.0.1', 'localhost')
        moved = server.serve('moved.pth', b'', file_server.redirect(other_url))
        load_teacher(moved)
        assert [user for _, user in other.requests] == [None]


def test_password_in_a_url_is_sent_and_not_shown(server, cache, logged):
    content = saved_teacher()
    server.serve('private.pth', content, file_server.private('mary', 'hu/sh'))
    url = server.url('private.pth?token=quiet', user='mary:hu%2Fsh@')
    with pytest.raises(ConfigError) as error:
        load_teacher(server.url('none.pth?token=quiet', user='mary:hu%2Fsh@'))
    assert torch.equal(load_teacher(url), head_weight(content))
    (path,) = [path for path in cache.iterdir() if path.name.startswith('private')]
    path.write_bytes(b'PK')
    with pytest.raises(ConfigError) as damaged:
        load_teacher(url)
    shown = '\n'.join([str(error.value), str(damaged.value), *logged, *(path.name for path in cache.iterdir())])
    assert 'http://***@127.0.0.1' in shown
    assert not any(secret in shown for secret in ('mary', 'hu%2Fsh', 'hu/sh', 'quiet'))


@pytest.mark.parametrize('url', ['https://ann:hu/sh@host/x.pth', 'https://ann:hu sh@host/x.pth', 'https://ann:hu?sh@host/x'])
def test_url_that_is_not_valid_is_reported_without_its_password(url, cache):
    with pytest.raises(ConfigError, match=r'^model\.teacher\.checkpoint: the URL is not valid.*percent-encoded') as error:
        load_teacher(url)
    assert 'sh@' not in str(error.value)
    assert not Path(cache).exists()
