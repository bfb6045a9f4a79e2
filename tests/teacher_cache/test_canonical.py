import json

import numpy as np
import pytest
from mmengine.config import ConfigDict

from serkd_mm.teacher_cache.canonical import canonical, first_difference


def test_settings_are_what_json_reads_back():
    settings = ConfigDict(
        type=np.ndarray, scale=(2, 1.5), mean=np.array([1.0, 2.0]), size=np.int64(3), inner=[dict(type='A', _scope_='b')]
    )
    found = canonical(settings)
    assert found == dict(type='ndarray', scale=[2, 1.5], mean=[1.0, 2.0], size=3, inner=[dict(type='A')])
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ('present', 'expected'),
    [
        ([dict(type='A', scale=224), dict(type='B')], None),
        ([dict(type='A', scale=192), dict(type='B')], 'pipeline[0].scale was 224 and is 192'),
        ([dict(type='A'), dict(type='B')], 'pipeline[0].scale was 224 and is not set'),
        ([dict(type='A', scale=224, p=1), dict(type='B')], 'pipeline[0].p was not set and is 1'),
        ([dict(type='A', scale=224)], "pipeline[1] was {'type': 'B'} and is not there"),
        (None, "pipeline was [{'type': 'A', 'scale': 224}, {'type': 'B'}] and is None"),
    ],
)
def test_the_first_difference_is_named(present, expected):
    assert first_difference([dict(type='A', scale=224), dict(type='B')], present, 'pipeline') == expected
