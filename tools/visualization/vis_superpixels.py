"""Draw the superpixels of a teacher and its student for images, and the relations of one superpixel (Fig. 3 of SeRKD).

    python tools/visualization/vis_superpixels.py CONFIG [CHECKPOINT] IMAGE_OR_FOLDER [--out-dir DIR] [--view NAME]
        [--tap NAME]

CHECKPOINT is the student's; without it the student is not trained. The teacher's weights are those of the config. Each
drawing shows the image and, for both sides, the superpixels, their outlines, their mean colors, and the distances from one
superpixel (marked; --superpixel) to all others. DIR has the same subfolders as FOLDER. If two images differ only in their
extension, the drawings keep it: a.jpg.png.
"""

import argparse
import warnings
from pathlib import Path

import torch
from mmcv import imwrite
from mmengine.dataset import Compose
from mmengine.utils import track_iter_progress
from mmpretrain.registry import MODELS, TRANSFORMS

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.config_files import OptionsAction, read_config
from serkd_mm.errors import one_line_errors
from serkd_mm.fileio.images import find_images
from serkd_mm.fileio.safe_loading import read_checkpoint
from serkd_mm.hooks.complete_checkpoint_hook import load_all_weights
from serkd_mm.hooks.image_error_hook import ErrorContextPipeline
from serkd_mm.visualization import draw_sample, find_view


def main() -> None:
    """Build the model, and draw all images."""
    args = parse_arguments()
    warnings.simplefilter('ignore')
    config = read_config(args.config, args.cfg_options)
    config.model.setdefault('data_preprocessor', config.get('data_preprocessor'))
    images = find_images(args.images)
    torch.manual_seed(0)  # Weights that are not trained are the same in every run.
    model = MODELS.build(config.model)
    view = find_view(model, args.view, args.tap)
    model.init_weights()
    if args.checkpoint:
        where = repr(str(args.checkpoint))
        load_all_weights(model, read_checkpoint(args.checkpoint, where), where)
    model.to(args.device)
    transforms = [TRANSFORMS.build(transform) for transform in config.test_dataloader.dataset.pipeline]
    pipeline = ErrorContextPipeline(Compose(transforms))
    folder = args.images if args.images.is_dir() else args.images.parent
    names = drawing_names([path.relative_to(folder) for path in images])
    for path, name in track_iter_progress(list(zip(images, names, strict=True))):
        drawing = draw_sample(model, pipeline({'img_path': str(path)}), view, args.superpixel, args.tap)
        imwrite(drawing[..., ::-1], str(args.out_dir / name))
    print(f'\nWrote {len(images)} drawings to {args.out_dir}')


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a distillation config')
    parser.add_argument(
        'checkpoint', nargs='?', type=Path, help="the student's checkpoint; without it the student is not trained"
    )
    parser.add_argument(
        'images', type=Path, metavar='image_or_folder', help='an image, or a folder that is searched for images'
    )
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/superpixels'), help='folder of the drawings')
    parser.add_argument('--view', help='name of the view; by default the first with superpixels')
    parser.add_argument('--tap', help="name of a tap of the view; by default the view's first")
    parser.add_argument(
        '--superpixel',
        type=int,
        help='index of the superpixel whose distances are drawn, row by row from 0; by default the one in the middle',
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='as in tools/train.py')
    return parser.parse_args()


def drawing_names(images: list[Path]) -> list[Path]:
    """Return a file name for each drawing: ``a.png`` for ``a.jpg``, or ``a.jpg.png`` if two images would share a name."""
    short = [path.with_suffix('.png') for path in images]
    return short if len(set(short)) == len(short) else [path.with_name(f'{path.name}.png') for path in images]


if __name__ == '__main__':
    with one_line_errors():
        main()
