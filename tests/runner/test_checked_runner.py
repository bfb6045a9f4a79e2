"""The errors of datasets whose files the checks do not know stay what they are."""

import json
from pathlib import Path

import pytest
from mmpretrain.datasets import CustomDataset

from serkd_mm.runner import CheckedRunner


class JsonDataset(CustomDataset):
    """Its annotation file has a form of its own."""

    def load_data_list(self):
        raise ValueError(f'{len(json.loads(Path(self.ann_file).read_text()))} entries are too many')


def test_annotation_file_of_another_form_is_not_read_as_one_of_lines(tmp_path):
    file = tmp_path / 'images.json'
    file.write_text('{"a.jpg": 0,\n"b.jpg": 1}')
    config = dict(dataset=dict(type=JsonDataset, ann_file=str(file)), sampler=None, batch_size=2, num_workers=0)
    with pytest.raises(ValueError, match='2 entries are too many'):
        CheckedRunner.build_dataloader(config)
