"""mmpretrain's own tools deploy the distilled student, with its plain config and without this package."""

import json
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import onnxruntime
import pytest
import torch
from builders import STUDENT, run_python, training_config
from mmengine.config import Config
from mmengine.runner import Runner

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('runner_scope')]

TOOLS = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
FORBID = 'raise ImportError("serkd_mm must not be imported")'


@pytest.fixture(scope='module')
def deployed(image_root, tmp_path_factory):
    """A folder with a distilled checkpoint and the student's plain config, which needs only mmpretrain."""
    root = tmp_path_factory.mktemp('deployed')
    distillation = training_config(image_root, root / 'work', **{'train_cfg.max_epochs': 1})
    Runner.from_cfg(distillation).train()
    student = dict(STUDENT, head=dict(STUDENT['head'], type='DeiTClsHead'))
    loader = dict(distillation.test_dataloader)
    loader['dataset'] = dict(loader['dataset'], pipeline=[dict(type='LoadImageFromFile'), RESIZE, dict(type='PackInputs')])
    plain = dict(
        default_scope='mmpretrain',
        model=student,
        data_preprocessor=dict(distillation.data_preprocessor),
        test_dataloader=loader,
    )
    Config(plain).dump(root / 'plain.py')
    (root / 'shadow').mkdir()
    (root / 'shadow' / 'serkd_mm.py').write_text(FORBID)
    return root


RESIZE = dict(type='Resize', scale=(32, 32))


def run(root, *command):
    """Run Python in a process that cannot import this package."""
    return run_python(*command, cwd=root, PYTHONPATH=str(root / 'shadow'), MPLBACKEND='Agg')


INFER = """
import json, sys
from mmpretrain import ImageClassificationInferencer
inferencer = ImageClassificationInferencer(model='plain.py', pretrained=sys.argv[1], device='cpu')
results = inferencer(sys.argv[2:], batch_size=2)
open('scores.json', 'w').write(json.dumps([result['pred_scores'].tolist() for result in results]))
"""


def infer(root, checkpoint, pictures):
    """Return the scores of mmpretrain's inferencer."""
    run(root, '-c', INFER, checkpoint, *pictures)
    return np.array(json.loads((root / 'scores.json').read_text()))


@pytest.fixture(scope='module')
def pictures(image_root):
    return sorted(image_root.glob('class*/*.jpg'))


@pytest.fixture(scope='module')
def scores(deployed, pictures):
    return infer(deployed, 'work/epoch_1.pth', pictures)


def test_inferencer_predicts_as_the_distiller(deployed, pictures, scores, image_root, tmp_path):
    config = training_config(image_root, tmp_path, **{'load_from': str(deployed / 'work' / 'epoch_1.pth')})
    runner = Runner.from_cfg(config)
    runner.load_or_resume()
    model = runner.model.eval()
    batch = [torch.from_numpy(cv2.resize(cv2.imread(str(path)), (32, 32))).permute(2, 0, 1) for path in pictures]
    with torch.no_grad():
        expected = model(model.data_preprocessor(dict(inputs=batch))['inputs']).softmax(dim=1)
    assert scores.shape == (12, 4)
    assert np.allclose(scores, expected.numpy(), atol=1e-5)


def test_published_checkpoint_is_smaller_and_predicts_the_same(deployed, pictures, scores):
    run(deployed, TOOLS / 'model_converters' / 'publish_model.py', 'work/epoch_1.pth', 'published.pth')
    (published,) = deployed.glob('published*.pth')
    assert published.stat().st_size < (deployed / 'work' / 'epoch_1.pth').stat().st_size / 2
    assert np.array_equal(infer(deployed, published, pictures), scores)


def test_get_flops(deployed):
    output = run(deployed, TOOLS / 'analysis_tools' / 'get_flops.py', 'plain.py', '--shape', '32')
    assert 'Params: ' in output
    assert 'Flops: ' in output


def test_class_activation_map(deployed, pictures):
    target = ['--target-layers', 'backbone.layers.1.ln1', '--vit-like', '--num-extra-tokens', '2']
    tool = TOOLS / 'visualization' / 'vis_cam.py'
    run(deployed, tool, pictures[0], 'plain.py', 'work/epoch_1.pth', *target, '--save-path', 'cam.jpg')
    assert cv2.imread(str(deployed / 'cam.jpg')).std() > 1


EXPORT = """
import inspect, torch
from mmpretrain import get_model
model = get_model('plain.py', 'work/epoch_1.pth', device='cpu').eval()
settings = dict(input_names=['images'], output_names=['logits'], dynamic_axes=dict(images={0: 'batch'}, logits={0: 'batch'}))
if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
    settings['dynamo'] = False  # All supported versions of torch have this exporter.
torch.onnx.export(model, (torch.zeros(1, 3, 32, 32),), 'student.onnx', opset_version=17, **settings)
"""


def test_onnx_export_has_the_same_logits(deployed, pictures, scores):
    run(deployed, '-c', EXPORT)
    session = onnxruntime.InferenceSession(deployed / 'student.onnx', providers=['CPUExecutionProvider'])
    preprocessor = Config.fromfile(deployed / 'plain.py').data_preprocessor
    batch = np.stack([cv2.resize(cv2.imread(str(path)), (32, 32))[..., ::-1] for path in pictures]).astype(np.float32)
    batch = ((batch - preprocessor.mean) / preprocessor.std).astype(np.float32).transpose(0, 3, 1, 2)
    (logits,) = session.run(None, {'images': batch})
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(exponentials / exponentials.sum(axis=1, keepdims=True), scores, atol=1e-5)
