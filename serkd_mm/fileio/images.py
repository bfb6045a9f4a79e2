"""Finding image files."""

from pathlib import Path

from ..errors import UserError

IMAGE_EXTENSIONS = {'.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff', '.webp'}


def find_images(path: Path) -> list[Path]:
    """Return the image, or all images of the folder and its subfolders, sorted.

    Args:
        path: A file of any name, or a folder.

    Raises:
        UserError: There is none.
    """
    if path.is_file():
        return [path]
    images = sorted(file for file in path.rglob('*') if file.suffix.lower() in IMAGE_EXTENSIONS)
    if not images:
        raise UserError(f'{path} is neither a picture nor a folder with any')
    return images
