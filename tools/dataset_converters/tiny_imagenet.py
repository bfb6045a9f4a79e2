"""Make the image folder of the study in configs/tiny_imagenet from Tiny ImageNet.

    python tools/dataset_converters/tiny_imagenet.py SOURCE TARGET

SOURCE is the unpacked archive ``tiny-imagenet-200.zip`` of Stanford's course CS231n. TARGET gets 100 of its 200 classes:
``train/<class>/*.JPEG``, the first 200 of 500 images of each, and ``val/<class>/*.JPEG``, all 50.
"""

import argparse
import shutil
from pathlib import Path

CLASSES = Path(__file__).resolve().parents[2] / 'configs' / 'tiny_imagenet' / 'classes.txt'
NUM_IMAGES = 200


def main() -> None:
    """Copy the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='the folder tiny-imagenet-200')
    parser.add_argument('target', type=Path, help='a new folder')
    args = parser.parse_args()
    images = find_images(args.source)
    if args.target.exists():
        raise SystemExit(f'{args.target} exists; choose another folder, or delete it')
    unfinished = args.target.with_name(f'{args.target.name}.unfinished')
    for name, path in images.items():
        (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, unfinished / name)
    unfinished.rename(args.target)
    print(f'Copied {len(images):,} images to {args.target}')


def find_images(source: Path) -> dict[str, Path]:
    """Return the images by their names in the target.

    Raises:
        SystemExit: An image or the list of the validation images is missing.
    """
    classes = [line.split()[1] for line in CLASSES.read_text(encoding='utf-8').splitlines()]
    annotations = source / 'val' / 'val_annotations.txt'
    if not annotations.is_file():
        raise SystemExit(f'{annotations} is missing: SOURCE must be the folder tiny-imagenet-200 of the unpacked archive')
    images = {
        f'train/{name}/{name}_{number}.JPEG': source / 'train' / name / 'images' / f'{name}_{number}.JPEG'
        for name in classes
        for number in range(NUM_IMAGES)
    }
    for line in annotations.read_text(encoding='utf-8').splitlines():
        file, name = line.split('\t')[:2]
        if name in classes:
            images[f'val/{name}/{file}'] = source / 'val' / 'images' / file
    missing = [path for path in images.values() if not path.is_file()]
    if missing:
        raise SystemExit(f'{missing[0]} is missing, and {len(missing) - 1} other images')
    return images


if __name__ == '__main__':
    main()
