"""Attempts with unusual images and datasets."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from builders import NUM_CLASSES, write_images
from judging import Act, check, refused, works, works_or_refused
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from PIL import Image
from starting import train, training_file

PICTURE = Path('images/class1/1.jpg')
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (40, 30, 3), np.uint8)


def saved(name: str = '1.png', pixels: np.ndarray = PIXELS, mode: str | None = None, **settings) -> Act:
    """Return a change that saves an image by Pillow instead of one of the training images."""

    def change(folder: Path) -> None:
        (folder / PICTURE).unlink()
        picture = Image.fromarray(pixels)
        (picture.convert(mode) if mode else picture).save(folder / PICTURE.with_name(name), **settings)

    return change


def trained(change: Callable[[Path], None], edit: Callable[[Config], None] | None = None, **settings) -> Act:
    """Change the folder of images, then train an epoch; every image must be read."""

    def act(folder: Path) -> None:
        write_images(folder / 'images', per_class=3)
        change(folder)
        runner = train(folder, edit=edit, train_cfg__max_epochs=1, **settings)
        check(all(weight.isfinite().all() for weight in runner.model.parameters()), 'a weight is not finite')
        number = len(runner.train_dataloader.dataset)
        check(number == 12 or edit is not None, f'{number} images instead of 12')

    return act


def renamed(name: str) -> Act:
    """Return a change of a picture's name."""
    return lambda folder: (folder / PICTURE).rename(folder / PICTURE.with_name(name))


def written(name: str, content: bytes) -> Act:
    """Return a change that writes a file beside the pictures."""
    return lambda folder: (folder / PICTURE).with_name(name).write_bytes(content) and None


def rotated(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    saved('1.jpg', exif=exif)(folder)


def rotation_is_read(folder: Path) -> None:
    """An image turned by its EXIF entry is the turned image, as in mmpretrain."""
    write_images(folder / 'images', per_class=3)
    rotated(folder)
    dataset = DATASETS.build(training_file(folder).train_dataloader.dataset)
    dataset.pipeline.transforms = dataset.pipeline.transforms[:1]
    (shape,) = {item['img_shape'] for item in dataset if item['img_path'].endswith(str(PICTURE)[-12:])}
    check(shape == (30, 40), f'shape {shape}')


def linked_class(folder: Path) -> None:
    (folder / 'images' / 'class1').rename(folder / 'moved')
    (folder / 'images' / 'class1').symlink_to(folder / 'moved')


def link_loop(folder: Path) -> None:
    (folder / 'images' / 'class1' / 'loop').symlink_to(folder / 'images')


def dangling(folder: Path) -> None:
    (folder / PICTURE).unlink()
    (folder / PICTURE).symlink_to(folder / 'nowhere.jpg')


def pipe(folder: Path) -> None:
    (folder / PICTURE).unlink()
    os.mkfifo(folder / PICTURE)


def duplicates(folder: Path) -> None:
    for picture in (folder / 'images').glob('*/*.jpg'):
        if picture != folder / PICTURE:
            shutil.copyfile(folder / PICTURE, picture)


def removed_while_training(folder: Path) -> None:
    """The image disappears between the listing and the first read."""
    runner = Runner.from_cfg(training_file(folder))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    (folder / PICTURE).unlink()
    runner.train()


def wrapped(make: Callable[[dict], dict]) -> Callable[[Config], None]:
    """Wrap the dataset of the training."""

    def edit(config: Config) -> None:
        config.train_dataloader.dataset = make(config.train_dataloader.dataset)

    return edit


def pipeline(*transforms: dict) -> Callable[[Config], None]:
    """Replace the pipeline of the training."""

    def edit(config: Config) -> None:
        config.train_dataloader.dataset.pipeline = list(transforms)

    return edit


def dataset(**settings) -> Callable[[Config], None]:
    """Change settings of the dataset of the training."""
    return lambda config: config.train_dataloader.dataset.update(settings)


@DATASETS.register_module()
class SeveralLabels(BaseDataset):
    """Each image has two labels."""

    def __init__(self, data_prefix: str, pipeline: list, **_ignored) -> None:
        self.root = data_prefix
        super().__init__(pipeline=pipeline)

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=str(path), gt_label=[0, 2]) for path in sorted(Path(self.root).glob('*/*.jpg'))]


def several_labels(config: Config) -> None:
    config.train_dataloader.dataset.type = 'SeveralLabels'


def cnn(batch_size: int) -> Callable[[Config], None]:
    """Replace the pair by the CNN pair, whose student has batch norms, and set the batch size."""

    def edit(config: Config) -> None:
        from builders import PREPROCESSOR, cnn_distiller_config  # noqa: PLC0415

        config.model = cnn_distiller_config(student__model__head__num_classes=NUM_CLASSES)
        config.model.teacher.model.head.num_classes = NUM_CLASSES
        config.model.data_preprocessor = PREPROCESSOR
        config.train_dataloader.batch_size = batch_size

    return edit


def rkd(config: Config) -> None:
    config.model.losses.loss_i = dict(type='InstanceAngleLoss', on='logits')


def unchanged(_folder: Path) -> None:
    """Change nothing."""


LOAD, CROP, PACK = dict(type='LoadImageFromFile'), dict(type='RandomResizedCrop', scale=32), dict(type='PackInputs')
TIFF = dict(train_dataloader__dataset__extensions=('.jpg', '.tif'))
NOT_ALL = dataset(indices=[0, 3, 6, 9])
ATTEMPTS = [
    works('a gray JPEG', trained(saved('1.jpg', mode='L'))),
    works('a PNG with transparency', trained(saved(mode='RGBA'))),
    works('a PNG with a palette', trained(saved(mode='P'))),
    works('a PNG with two colors', trained(saved(mode='1'))),
    works('a PNG of gray and transparency', trained(saved(mode='LA'))),
    works('a PNG of 16 bits', trained(saved(pixels=PIXELS[..., 0].astype(np.uint16) * 200))),
    works('a CMYK JPEG', trained(saved('1.jpg', mode='CMYK'))),
    works('a progressive JPEG', trained(saved('1.jpg', progressive=True))),
    works('a JPEG without chroma subsampling, of quality 1', trained(saved('1.jpg', quality=1, subsampling=0))),
    works('a JPEG called .png', trained(lambda f: (f / PICTURE).rename((f / PICTURE).with_suffix('.png')) and None)),
    works('a JPEG turned by EXIF', trained(rotated)),
    works('a JPEG turned by EXIF is read turned', rotation_is_read),
    works('one pixel', trained(saved(pixels=PIXELS[:1, :1]))),
    works('10,000 x 1 pixels', trained(saved(pixels=np.tile(PIXELS[:1], (10000, 1, 1))[:, :1]))),
    works('1 x 10,000 pixels', trained(saved(pixels=np.tile(PIXELS[:1, :1], (1, 10000, 1))))),
    works('6,000 x 6,000 equal pixels', trained(saved(pixels=np.zeros((6000, 6000, 3), np.uint8)))),
    works('black images only', trained(lambda f: [cv2.imwrite(str(p), PIXELS * 0) for p in f.glob('images/*/*')] and None)),
    works('the same image everywhere, with RKD', trained(duplicates, rkd)),
    works('a name of unicode, spaces and quotes', trained(renamed('größe 學 \'a\' "b".jpg'))),
    works('a name with a line break', trained(renamed('a\nb.jpg'))),
    works('a name with a leading dash', trained(renamed('-rf.jpg'))),
    works('a name of 255 bytes', trained(renamed('x' * 251 + '.jpg'))),
    works('an extension in capital letters', trained(renamed('1.JPG'))),
    works('two extensions', trained(renamed('1.png.jpg'))),
    works('a hidden text file beside the images', trained(written('.DS_Store', b'\0\0\0\1Bud1'))),
    works('Thumbs.db beside the images', trained(written('Thumbs.db', b'\xd0\xcf\x11\xe0'))),
    works('the resource fork of macOS, ._1.jpg, is no image', trained(written('._1.jpg', b'\0\5\x16\7'))),
    refused('a web page called .jpg', trained(written('1.jpg', b'<!DOCTYPE html><html></html>')), '1.jpg'),
    refused('an SVG called .png', trained(written('5.png', b'<svg xmlns="http://www.w3.org/2000/svg"/>')), '5.png'),
    refused(
        'a PNG header of 2 GB',
        trained(written('1.jpg', bytes.fromhex('89504e470d0a1a0a0000000d494844520000ffff0000ffff0802000000d5f5f2b1'))),
        '1.jpg',
    ),
    refused('an image of another type with that name', trained(written('1.jpg', b'GIF89a\1\0\1\0\0\0\0;')), '1.jpg'),
    refused('a link that leads nowhere', trained(dangling), '1.jpg'),
    works('a named pipe called .jpg is no image', trained(pipe, dataset()), seconds=90),
    refused('an image disappears after the listing', removed_while_training, '1.jpg'),
    works('a class behind a link', trained(linked_class)),
    works_or_refused(
        'a link to the folder above', trained(link_loop, dataset(indices=[0, 3, 5, 9])), 'symbolic links', 'loop'
    ),
    works('a folder in a class', trained(lambda f: (f / 'images' / 'class1' / 'empty').mkdir())),
    works(
        'ConcatDataset in RepeatDataset',
        trained(
            unchanged,
            wrapped(lambda d: dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[d, d]))),
        ),
    ),
    works(
        'ClassBalancedDataset',
        trained(unchanged, wrapped(lambda d: dict(type='ClassBalancedDataset', oversample_thr=0.5, dataset=d))),
    ),
    works('KFoldDataset', trained(unchanged, wrapped(lambda d: dict(type='KFoldDataset', num_splits=3, fold=0, dataset=d)))),
    works('some indices', trained(unchanged, NOT_ALL)),
    works('lazy_init', trained(unchanged, dataset(lazy_init=True))),
    works('without serialization', trained(unchanged, dataset(serialize_data=False))),
    works(
        'further metainfo',
        trained(unchanged, dataset(metainfo=dict(author='größe', classes=[f'class{n}' for n in range(4)]))),
    ),
    works_or_refused('two labels an image for a head of one', trained(unchanged, several_labels), 'label'),
    refused('a dataset without labels', trained(unchanged, dataset(with_label=False)), 'label'),
    refused('a pipeline without PackInputs', trained(unchanged, pipeline(LOAD, CROP)), 'pipeline'),
    refused('a pipeline without a crop, images of several sizes', trained(saved(), pipeline(LOAD, PACK)), 'pipeline'),
    works('images larger than those of the dry run', trained(unchanged, pipeline(LOAD, dict(CROP, scale=48), PACK))),
    refused(
        'a transform that does not exist',
        trained(unchanged, pipeline(LOAD, dict(type='RandomResizedCorp'), PACK)),
        'RandomResizedCorp',
    ),
    refused(
        'a transform with a wrong setting',
        trained(unchanged, pipeline(LOAD, dict(CROP, scales=3), PACK)),
        'RandomResizedCrop',
        'scales',
    ),
    works('gray images by color_type', trained(unchanged, pipeline(dict(LOAD, color_type='color'), CROP, PACK))),
    works('a last batch of one image with batch norms', trained(unchanged, cnn(11))),
    works('batches of one image with batch norms', trained(unchanged, cnn(1))),
    works('a batch larger than the dataset', trained(unchanged, cnn(100))),
]
