"""The manifest of a teacher cache."""

import json
from dataclasses import replace

import pytest
from caches import build_manifest
from mmengine.config import Config

from serkd_mm.fileio import WriteError
from serkd_mm.teacher_cache import CacheError, Manifest
from serkd_mm.teacher_cache.formats import TriangleFormat


def test_saving_and_loading_keeps_everything(tmp_path):
    manifest = build_manifest(complete=True)
    manifest.save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded.identity == manifest.identity
    assert loaded.differences(manifest) == []
    assert loaded.complete
    assert (loaded.entries[1].offset, loaded.entries[1].num_bytes, loaded.record_bytes) == (72, 32, 8 + 72 + 32)
    assert [path.name for path in tmp_path.iterdir()] == ['manifest.json']
    configs = build_manifest(augments=Config(dict(a=dict(augments=[dict(type='Mixup', alpha=0.8)], probs=None))).a)
    assert configs.identity == manifest.identity


def test_shards_of_a_view():
    assert [build_manifest(num_positions=number).num_shards for number in (1, 4, 5, 10)] == [1, 1, 2, 3]
    assert [build_manifest().shard_length(shard) for shard in range(3)] == [4, 4, 2]


def test_a_record_of_relations_alone_has_2360_bytes():
    kind = TriangleFormat(49, 768)
    entry = replace(build_manifest().entries[0], format=kind.settings, num_bytes=kind.num_bytes)
    assert build_manifest(entries=[entry]).record_bytes == 8 + 2352


def test_identity_ignores_only_completeness():
    manifest = build_manifest()
    assert manifest.identity == replace(manifest, complete=True).identity
    for change in (dict(seed=1), dict(versions=dict(pillow='2')), dict(entries=manifest.entries[:1]), dict(teacher={})):
        assert manifest.identity != replace(manifest, **change).identity


def test_differences_in_words():
    manifest = build_manifest()
    other = replace(
        manifest,
        seed=1,
        complete=True,
        versions={},
        teacher=dict(model=dict(type='ImageClassifier', scale=[3, 5]), state_sha256='a'),
        augments=None,
        entries=[replace(manifest.entries[0], content='features'), manifest.entries[1]],
    )
    assert manifest.differences(other) == [
        'seed was 0 and is 1',
        "augments was {'augments': [{'type': 'Mixup', 'alpha': 0.8}], 'probs': None} and is None",
        'teacher.model.scale[1] was 4 and is 5',
        "entries[0].content was 'relations' and is 'features'",
    ]
    assert manifest.differences(replace(manifest, complete=True, versions={})) == []


def test_folder_that_is_no_cache_is_refused(tmp_path):
    with pytest.raises(CacheError, match=rf'^{tmp_path} holds no manifest.json, so it is no teacher cache. Make one '):
        Manifest.load(tmp_path)
    with pytest.raises(CacheError, match=rf'^{tmp_path}/missing: there is no such folder. If the cache was moved, set '):
        Manifest.load(tmp_path / 'missing')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"num_views": 3', 'cannot be read: .*Make the cache anew'),
        ('\udcff', 'cannot be read: .*Make the cache anew'),
        ('[]', 'is damaged: '),
        ('{"entries": []}', 'is damaged: .*missing .* required .*num_views'),
        ('{"entries": [{"tap": 1}]}', 'is damaged: '),
    ],
)
def test_damaged_manifest_is_named(tmp_path, content, message):
    (tmp_path / 'manifest.json').write_bytes(content.encode(errors='surrogateescape'))
    with pytest.raises(CacheError, match=rf'{tmp_path}/manifest.json {message}'):
        Manifest.load(tmp_path)


def test_cache_of_a_newer_version_is_refused(tmp_path):
    build_manifest().save(tmp_path)
    content = json.loads((tmp_path / 'manifest.json').read_text())
    (tmp_path / 'manifest.json').write_text(json.dumps({**content, 'format_version': 2, 'later': 1}))
    with pytest.raises(CacheError, match=r'made by a newer version of serkd-mm: its format has version 2'):
        Manifest.load(tmp_path)


def test_manifest_that_cannot_be_written_says_what_continues(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(WriteError, match=r'file/manifest.json .* could not be written: .*the same command then continues'):
        build_manifest().save(tmp_path / 'file')
