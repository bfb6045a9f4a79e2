"""Drawings of superpixels, by the tool and by the hook."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from builders import build_distiller, cnn_distiller_config, distiller_config, images, run_forked, training_config
from mmengine.runner import Runner

from serkd_mm.config_errors import ConfigError
from serkd_mm.ops import normalized_distances
from serkd_mm.visualization import Superpixels, draw_sample, find_view, superpixels_of
from serkd_mm.visualization.drawing import draw, mean_colors, outlined
from serkd_mm.visualization.superpixels import pixel_labels


def test_pixels_belong_to_the_superpixel_with_the_largest_share():
    # 2 x 4 tokens: the left half belongs to one superpixel, the right half to another.
    own = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    labels = pixel_labels(torch.nn.functional.one_hot(own, 2).float(), (2, 4), (20, 40))
    assert labels.shape == (20, 40)
    assert (labels[:, :20] == 0).all()
    assert (labels[:, 20:] == 1).all()


def test_boundaries_are_where_the_shares_are_equal():
    # The share falls from 0.9 at one center to 0.4 at the other, and is 0.5 after 0.8 of the way.
    shares = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    labels = pixel_labels(shares, (1, 2), (1, 200))
    assert int((labels == 0).sum()) == pytest.approx(50 + 80, abs=1)


@pytest.mark.parametrize('config', [distiller_config, cnn_distiller_config])
def test_relations_are_the_normalized_distances_of_the_tokens_that_the_losses_compare(config):
    model = build_distiller(config).eval()
    with torch.no_grad():
        for weight in model.distill.views.parameters():  # A new refiner would be the identity.
            weight.add_(0.1)
        tokens = model.distill.tokens(*model.extract_features(images(3)))['superpixels']
    for tap, pair in tokens.items():
        sides = superpixels_of(model, images(3), 'superpixels', tap=tap)
        for name, side in zip(('student', 'teacher'), pair, strict=True):
            relations = torch.stack([image.relations for image in sides[name]])
            assert relations.dtype == torch.float64
            assert torch.equal(relations, normalized_distances(side.double()))


def test_mean_colors_and_outlines():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    labels = np.array([[0, 0, 3, 3], [0, 0, 3, 3]])
    means = mean_colors(picture, labels)
    assert (means[:, :2] == picture[:, :2].reshape(-1, 3).mean(axis=0).round()).all()
    assert (means[:, 2:] == picture[:, 2:].reshape(-1, 3).mean(axis=0).round()).all()
    line = np.array([255, 0, 0], np.uint8)
    lined = outlined(picture, labels, line)
    assert (lined[:, 1] == line).all()
    assert (lined[:, [0, 2, 3]] == picture[:, [0, 2, 3]]).all()


def test_an_index_out_of_range_is_reported():
    side = Superpixels(torch.zeros(8, 8, dtype=torch.long), torch.zeros(4, 4), (2, 2))
    with pytest.raises(ValueError, match='no superpixel 4: the teacher has 4'):
        draw(np.zeros((8, 8, 3), np.uint8), {'teacher': side}, chosen=4)


def test_superpixels_of_student_and_teacher():
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
    assert (drawing == 200).all(axis=2).sum() > 1000, 'the drawing contains the image'


def test_unknown_view_name_is_reported():
    model = build_distiller()
    assert find_view(model) == 'superpixels'
    assert find_view(model, 'tokens') == 'tokens'
    with pytest.raises(ConfigError, match=r"no 'superpixel' that a loss reads\. Did you mean 'superpixels'"):
        find_view(model, 'superpixel')


def test_a_view_of_several_taps_is_drawn_at_its_first_tap_or_at_the_named_one():
    model = build_distiller(cnn_distiller_config)
    assert find_view(model, tap='stage2') == 'superpixels'
    with pytest.raises(ConfigError, match=r"model\.views\.superpixels has no tap 'stage4'\. Did you mean .*'stage3'"):
        find_view(model, tap='stage4')

    by_tap = {tap: superpixels_of(model, images(1), 'superpixels', tap) for tap in (None, 'stage1', 'stage2', 'stage3')}
    for side in ('student', 'teacher'):
        relations = {tap: sides[side][0].relations for tap, sides in by_tap.items()}
        assert torch.equal(relations[None], relations['stage1'])
        assert not torch.equal(relations['stage1'], relations['stage2'])
        assert not torch.equal(relations['stage2'], relations['stage3'])
        assert [sides[side][0].grid_shape for sides in by_tap.values()] == [(4, 4)] * 4

    generator = torch.Generator().manual_seed(0)
    sample = dict(inputs=torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8), data_samples=None)
    drawings = [draw_sample(model, sample, 'superpixels', tap=tap) for tap in (None, 'stage1', 'stage2')]
    assert np.array_equal(drawings[0], drawings[1])
    assert not np.array_equal(drawings[0], drawings[2])


@pytest.mark.usefixtures('runner_scope')
def test_the_hook_adds_drawings_of_validation_images_to_the_visualizer(image_root, tmp_path):
    losses = []
    for name, hooks in (('without', []), ('with', [dict(type='SuperpixelVisualizationHook', interval=2, num_images=3)])):
        config = training_config(image_root, tmp_path / name)
        config.custom_hooks = [*config.custom_hooks, *hooks]
        runner = Runner.from_cfg(config)
        runner.train()
        losses.append(torch.tensor(runner.message_hub.log_scalars['train/loss'].data[0]))
    assert torch.equal(*losses), 'drawing must not change the training'
    drawn = sorted(path.name for path in (tmp_path / 'with').glob('*/vis_data/vis_image/*.png'))
    assert drawn == [f'superpixels_{number}_2.png' for number in range(3)]


@pytest.mark.usefixtures('runner_scope')
def test_the_hook_reports_an_unknown_view_before_training(image_root, tmp_path):
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
    picture = image_root / 'class2' / '0.jpg'
    folder = tmp_path / 'pictures'  # Its images differ in their extension or in their folder only.
    (folder / 'more').mkdir(parents=True)
    for number, name in enumerate(('0.jpg', '0.jpeg', 'more/0.jpg')):
        shutil.copyfile(image_root / 'class1' / f'{number}.jpg', folder / name)
    checkpoint = tmp_path / 'work' / 'epoch_1.pth'
    # Two folders hold images of the same name, as in a validation set.
    for name, arguments in {'plain': [image_root], 'trained': [checkpoint, folder], 'one': [picture]}.items():
        run_forked(*tool, *arguments, '--out-dir', tmp_path / name)
    written = {name: sorted(tmp_path.glob(f'{name}/**/*.png')) for name in ('plain', 'trained', 'one')}
    assert [path.relative_to(tmp_path / 'plain') for path in written['plain']] == [
        path.relative_to(image_root).with_suffix('.png') for path in sorted(image_root.glob('*/*.jpg'))
    ]
    names = [str(path.relative_to(tmp_path / 'trained')) for path in written['trained']]
    assert names == ['0.jpeg.png', '0.jpg.png', 'more/0.jpg.png']
    assert len({path.read_bytes() for path in written['trained']}) == 3
    assert [path.name for path in written['one']] == ['0.png']
    plain, trained = (
        cv2.imread(str(path)) for path in (tmp_path / 'plain' / 'class1' / '0.png', tmp_path / 'trained' / '0.jpg.png')
    )
    assert plain.shape == trained.shape
    assert (plain != trained).any()
    assert 'neither a picture nor a folder' in run_forked(*tool, tmp_path / 'none', succeed=False)
    (tmp_path / 'broken.jpg').write_bytes(b'')
    assert f'{tmp_path}/broken.jpg: ' in run_forked(*tool, tmp_path / 'broken.jpg', succeed=False).splitlines()[-1]
