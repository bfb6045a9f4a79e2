"""Write the handwritten digits of scikit-learn as image folders: real images without a download.

    python tools/experiments/make_digits.py [FOLDER] [--images N]

``train`` has two thirds of the images, ``val`` the rest, and ``few`` the first 10 of each class of ``train``.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_digits

FEW_PER_CLASS = 10
NUM_IMAGES = 1797


def main(root: Path, num_images: int = NUM_IMAGES) -> None:
    """Write ``root/<split>/<class>/<number>.png``. ``root`` exists only once all images are written.

    Args:
        root: A new folder.
        num_images: Number of images of all splits together, drawn with a fixed seed. Defaults to all, 1,797.
    """
    if root.exists():
        raise SystemExit(f'{root} exists already; name a new folder')
    unfinished = root.with_name(f'{root.name}.unfinished')
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))[:num_images]
    train, val = np.split(order, [len(order) * 2 // 3])
    few = np.concatenate([train[digits.target[train] == label][:FEW_PER_CLASS] for label in range(10)])
    for split, indices in {'train': train, 'few': few, 'val': val}.items():
        for index in indices:
            folder = unfinished / split / str(digits.target[index])
            folder.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(folder / f'{index:04d}.png'), images[index]):
                raise OSError(f'could not write an image into {folder}')
        print(f'{root / split}: {len(indices)} images')
    unfinished.rename(root)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'folder',
        nargs='?',
        type=Path,
        default=Path('data/digits'),
        metavar='FOLDER',
        help='a new folder; data/digits by default',
    )
    parser.add_argument(
        '--images', type=int, default=NUM_IMAGES, metavar='N', help=f'how many images; all {NUM_IMAGES} by default'
    )
    args = parser.parse_args()
    main(args.folder, args.images)
