"""A folder of images as a data set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..extras import needed

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Kinds of Pillow's with 8 bits for each value; it cuts others off when it converts them."""


class ImageFolder:
    """The images of a folder and of the folders in it, in the order of their names.

    Args:
        folder: The folder.
        transform: From an image of Pillow's, in RGB, to what the model takes, [C, H, W]. A model's own transform does
            it; nothing is guessed here.

    Returns:
        A data set for `run`, whose ids are the files' paths below the folder.

    Raises:
        ValueError: If there are no images.
        MissingPackageError: If Pillow is not installed.

    Example:
        >>> import tempfile, numpy, torch
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from funcattr import scale
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (8, 8), "red").save(folder / "red.png")
        >>> data = scale.ImageFolder(folder, lambda image: torch.from_numpy(numpy.array(image)).movedim(2, 0) / 255)
        >>> data.ids, data[0].shape
        (['red.png'], torch.Size([3, 8, 8]))
    """

    def __init__(self, folder: str | Path, transform: Callable[[Any], Tensor]) -> None:
        needed(f"ImageFolder({str(folder)!r})", "PIL", ".[plot]", "Pillow")
        self.folder, self.transform = Path(folder), transform
        found = [path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        self.ids = sorted(path.relative_to(self.folder).as_posix() for path in found)
        if not self.ids:
            raise ValueError(f"ImageFolder({str(folder)!r}): expected images ({', '.join(SUFFIXES)}), got none.")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Tensor:
        """An image as the model takes it. [C, H, W]

        Raises:
            ValueError: If it has more than 8 bits for each value: its brighter part would be white.
        """
        from PIL import Image

        with Image.open(self.folder / self.ids[index]) as image:
            if image.mode not in MODES:
                raise ValueError(
                    f"ImageFolder: expected 8 bits for each value in {self.ids[index]}, got Pillow's mode "
                    f"{image.mode!r}. Convert it to RGB first."
                )
            return self.transform(image.convert("RGB"))
