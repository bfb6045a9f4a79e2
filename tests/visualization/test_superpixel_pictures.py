"""Pictures of superpixels: what is drawn, by the tool and by the hook."""

import cv2
import numpy as np
import pytest
import torch
from builders import build_distiller, images, run_python, training_config
from mmengine.runner import Runner

from serkd_mm.distillers.config_errors import ConfigError
from serkd_mm.ops import distance_relation_loss
from serkd_mm.visualization import Superpixels, draw_sample, find_view, superpixels_of
from serkd_mm.visualization.drawing import draw, mean_colours, outlined
from serkd_mm.visualization.superpixels import pixel_labels, relations


def test_pixels_belong_to_the_superpixel_with_the_largest_share():
    # 2 x 4 tokens, the left half of one superpixel and the right half of another.
    own = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    labels = pixel_labels(torch.nn.functional.one_hot(own, 2).float(), (2, 4), (20, 40))
    assert labels.shape == (20, 40)
    assert (labels[:, :20] == 0).all()
    assert (labels[:, 20:] == 1).all()


def test_boundaries_lie_where_the_shares_are_equal():
    # Shares of 0.9 and 0.4 of two neighbours meet at 0.5 after 0.8 of the way from one centre to the other.
    shares = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    labels = pixel_labels(shares, (1, 2), (1, 200))
    assert int((labels == 0).sum()) == pytest.approx(50 + 80, abs=1)


def test_relations_are_those_of_equation_10():
    tokens = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = relations(tokens)
    expected = (tokens[:, None] - tokens[None]).norm(dim=2)
    assert torch.allclose(matrix, expected / (expected.sum() / 20))
    assert relations(torch.ones(3, 2)).isfinite().all()
    # The loss between a student and a teacher is the Huber loss of these matrices.
    other = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    huber = torch.nn.functional.smooth_l1_loss(matrix, relations(other))
    assert torch.allclose(distance_relation_loss(tokens[None], other[None]).double(), huber, rtol=1e-5)


def test_mean_colours_and_outlines():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    labels = np.array([[0, 0, 3, 3], [0, 0, 3, 3]])
    means = mean_colours(picture, labels)
    assert (means[:, :2] == picture[:, :2].reshape(-1, 3).mean(axis=0).round()).all()
    assert (means[:, 2:] == picture[:, 2:].reshape(-1, 3).mean(axis=0).round()).all()
    line = np.array([255, 0, 0], np.uint8)
    lined = outlined(picture, labels, line)
    assert (lined[:, 1] == line).all()
    assert (lined[:, [0, 2, 3]] == picture[:, [0, 2, 3]]).all()


def test_a_superpixel_that_is_not_there_is_told():
    side = Superpixels(torch.zeros(8, 8, dtype=torch.long), torch.zeros(4, 4), (2, 2))
    with pytest.raises(ValueError, match='no superpixel 4: the teacher has 4'):
        draw(np.zeros((8, 8, 3), np.uint8), {'teacher': side}, chosen=4)


def test_both_sides_of_a_distiller():
    model = build_distiller()
    sides = superpixels_of(model, images(3), 'superpixels')
    assert list(sides) == ['student', 'teacher']
    for side in sides.values():
        assert [tuple(one.labels.shape) for one in side] == [(32, 32)] * 3
        assert all(one.relations.shape == (4, 4) and one.grid_shape == (2, 2) for one in side)
    assert not torch.equal(sides['student'][0].relations, sides['teacher'][0].relations)
    sample = dict(inputs=torch.full((3, 32, 32), 200, dtype=torch.uint8), data_samples=None)
    drawing = draw_sample(model, sample, 'superpixels')
    assert drawing.dtype == np.uint8
    assert (drawing == 200).all(axis=2).sum() > 1000, 'the image itself is shown'


def test_the_view_is_found_or_told():
    model = build_distiller()
    assert find_view(model) == 'superpixels'
    assert find_view(model, 'tokens') == 'tokens'
    with pytest.raises(ConfigError, match=r"no 'superpixel' that a loss reads\. Did you mean 'superpixels'"):
        find_view(model, 'superpixel')


@pytest.mark.usefixtures('runner_scope')
def test_the_hook_draws_validation_images_through_the_visualizer(image_root, tmp_path):
    losses = []
    for name, hooks in (('without', []), ('with', [dict(type='SuperpixelVisualizationHook', interval=2, num_images=3)])):
        config = training_config(image_root, tmp_path / name)
        config.custom_hooks = [*config.custom_hooks, *hooks]
        runner = Runner.from_cfg(config)
        runner.train()
        losses.append(torch.tensor(runner.message_hub.log_scalars['train/loss'].data[0]))
    assert torch.equal(*losses), 'drawing changes no training'
    drawn = sorted(path.name for path in (tmp_path / 'with').glob('*/vis_data/vis_image/*.png'))
    assert drawn == [f'superpixels_{number}_2.png' for number in range(3)]


@pytest.mark.usefixtures('runner_scope')
def test_the_hook_tells_a_wrong_view_before_training(image_root, tmp_path):
    config = training_config(image_root, tmp_path)
    config.custom_hooks = [*config.custom_hooks, dict(type='SuperpixelVisualizationHook', view='pixels')]
    with pytest.raises(ConfigError, match="no 'pixels'"):
        Runner.from_cfg(config).train()


@pytest.mark.slow
@pytest.mark.usefixtures('runner_scope')
def test_the_tool_draws_a_folder_with_and_without_a_checkpoint(image_root, tmp_path):
    config = training_config(image_root, tmp_path / 'work', **{'train_cfg.max_epochs': 1})
    Runner.from_cfg(config).train()
    config.dump(tmp_path / 'config.py')
    tool = ['tools/visualization/vis_superpixels.py', tmp_path / 'config.py']
    folder, picture = image_root / 'class1', image_root / 'class2' / '0.jpg'
    checkpoint = tmp_path / 'work' / 'epoch_1.pth'
    # Pictures of one name in two folders, as of a validation set.
    for name, arguments in {'plain': [image_root], 'trained': [checkpoint, folder], 'one': [picture]}.items():
        run_python(*tool, *arguments, '--out-dir', tmp_path / name)
    written = {name: sorted(tmp_path.glob(f'{name}/**/*.png')) for name in ('plain', 'trained', 'one')}
    assert [path.relative_to(tmp_path / 'plain') for path in written['plain']] == [
        path.relative_to(image_root).with_suffix('.png') for path in sorted(image_root.glob('*/*.jpg'))
    ]
    assert [path.name for path in written['trained']] == ['0.png', '1.png', '2.png']
    assert [path.name for path in written['one']] == ['0.png']
    plain, trained = (cv2.imread(str(path)) for path in (tmp_path / 'plain' / 'class1' / '0.png', written['trained'][0]))
    assert plain.shape == trained.shape
    assert (plain != trained).any()
    assert 'neither a picture nor a folder' in run_python(*tool, tmp_path / 'none', succeed=False)
    (tmp_path / 'broken.jpg').write_bytes(b'')
    assert f'{tmp_path}/broken.jpg: ' in run_python(*tool, tmp_path / 'broken.jpg', succeed=False).splitlines()[-1]
