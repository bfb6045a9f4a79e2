"""A password in the URL of the teacher's weights stays out of everything that a training writes."""

import file_server
import pytest
import torch
from builders import REPOSITORY, TEACHER, python_path, run_python, training_config
from mmpretrain.registry import MODELS

pytestmark = pytest.mark.slow

SECRETS = ('mary', 'hush', 'quiet')


def test_password_is_in_no_output_file_or_checkpoint(image_root, tmp_path):
    torch.save(MODELS.build(dict(TEACHER)).state_dict(), tmp_path / 'teacher.pth')
    work_dir = tmp_path / 'work'
    with file_server.file_server() as server:
        content = (tmp_path / 'teacher.pth').read_bytes()
        server.serve('teacher.pth', content, file_server.private('mary', 'hush'))
        url = server.url('teacher.pth?token=quiet', user='mary:hush@')
        changes = {'model.teacher.checkpoint': url, 'model.teacher.allow_random_teacher': False, 'teacher_url': url}
        config = training_config(image_root, work_dir, **changes, **{'train_cfg.max_epochs': 1})
        config.dump(tmp_path / 'config.py')
        environment = dict(TORCH_HOME=str(tmp_path / 'cache'), PYTHONPATH=python_path(REPOSITORY), CUDA_VISIBLE_DEVICES='-1')
        output = run_python(REPOSITORY / 'tools' / 'train.py', tmp_path / 'config.py', **environment)
        assert [path for path, _ in server.requests] == ['/teacher.pth?token=quiet']
        # A teacher that does not load is reported without them, too.
        server.files.clear()
        for path in (tmp_path / 'cache').rglob('*.pth'):
            path.unlink()
        again = ['--work-dir', tmp_path / 'work2']
        output += run_python(REPOSITORY / 'tools' / 'train.py', tmp_path / 'config.py', *again, succeed=False, **environment)
    assert 'http://***@127.0.0.1' in output
    written = {
        path: path.read_bytes() for folder in ('work', 'work2') for path in (tmp_path / folder).rglob('*') if path.is_file()
    }
    assert {path.suffix for path in written} >= {'.log', '.py', '.json', '.pth'}
    found = [(path.name, name) for path, text in written.items() for name in SECRETS if name.encode() in text]
    assert found == []
    assert not any(name in output for name in SECRETS)
    # The checkpoint is not compressed: the config inside it was searched.
    assert b'http://***@127.0.0.1' in written[work_dir / 'epoch_1.pth']
