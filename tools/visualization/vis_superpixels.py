"""Draw the superpixels of a teacher and its student on pictures, and the relations of one of them (paper, Fig. 3).

    python tools/visualization/vis_superpixels.py CONFIG [CHECKPOINT] IMAGE_OR_FOLDER [--out-dir DIR] [--view NAME]

CHECKPOINT is the student's; without it the student is untrained. The teacher's weights are those of the config. A drawing
is written for each picture, below DIR where the picture is below FOLDER: the image, and for either side its superpixels,
their outlines, their mean colours, and how far one superpixel (marked; --superpixel) is from each other one.
"""

import argparse
import warnings
from pathlib import Path

import torch
from mmcv import imwrite
from mmengine.config import Config, DictAction
from mmengine.dataset import Compose
from mmengine.runner import load_checkpoint
from mmengine.utils import track_iter_progress
from mmpretrain.registry import MODELS, TRANSFORMS

import serkd_mm  # noqa: F401  (registers the components, and says so clearly where a package is missing)
from serkd_mm.distillers.teacher_weights import read_checkpoint
from serkd_mm.hooks.image_error_hook import TellingPipeline
from serkd_mm.visualization import draw_sample, find_view

EXTENSIONS = {'.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff', '.webp'}


def main() -> None:
    """Build the pair, and draw every picture."""
    args = parse_arguments()
    warnings.simplefilter('ignore')
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    config.model.setdefault('data_preprocessor', config.get('data_preprocessor'))
    pictures = find_pictures(args.pictures)
    torch.manual_seed(0)  # What is not trained is the same at every start.
    model = MODELS.build(config.model)
    view = find_view(model, args.view)
    model.init_weights()
    if args.checkpoint:
        read_checkpoint(args.checkpoint, repr(str(args.checkpoint)))  # Says what is wrong with it, and runs no code.
        load_checkpoint(model, str(args.checkpoint), map_location='cpu')
    model.to(args.device)
    pipeline = TellingPipeline(
        Compose([TRANSFORMS.build(transform) for transform in config.test_dataloader.dataset.pipeline])
    )
    folder = args.pictures if args.pictures.is_dir() else args.pictures.parent
    for path in track_iter_progress(pictures):
        drawing = draw_sample(model, pipeline({'img_path': str(path)}), view, args.superpixel)
        imwrite(drawing[..., ::-1], str(args.out_dir / path.relative_to(folder).with_suffix('.png')))
    print(f'\nWrote {len(pictures)} drawings to {args.out_dir}')


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a distillation config')
    parser.add_argument('checkpoint', nargs='?', type=Path, help="the student's")
    parser.add_argument('pictures', type=Path, metavar='image_or_folder')
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/superpixels'))
    parser.add_argument('--view', help='name of the view; by default the first with superpixels')
    parser.add_argument(
        '--superpixel',
        type=int,
        help='the one whose relations are drawn, counted row by row from 0; by default the middle one',
    )
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='as in tools/train.py')
    return parser.parse_args()


def find_pictures(path: Path) -> list[Path]:
    """The picture, or all of a folder and of those inside it."""
    if path.is_file():
        return [path]
    pictures = sorted(file for file in path.rglob('*') if file.suffix.lower() in EXTENSIONS)
    if not pictures:
        raise SystemExit(f'{path} is neither a picture nor a folder with any')
    return pictures


if __name__ == '__main__':
    main()
