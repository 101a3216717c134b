"""Folders of images, one folder a class."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from scaletorch.data.options import check_least
from scaletorch.data.registry import register
from scaletorch.data.source import Augmented, Sample, Source

__all__ = ["AugmentedImages", "ImageFolder", "decoded", "image_folder"]

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_ARRAYS = (".npy", ".pt")
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class ImageFolder:
    """Images below ``path/CLASS/``, as in ImageNet.

    Classes are numbered in the order of their names. An image is scaled so
    that its shorter side is `size` / 0.875, and its middle is cut out.

    Parameters
    ----------
    path : str or Path
        Of the folders of classes. Files are pictures (which need Pillow)
        or arrays, ``.npy`` or ``.pt``, of shape (channels, height, width):
        uint8 from 0 to 255, or floats from 0 to 1.
    size : int
        Height and width of what comes out.
    mean, deviation : sequence of float
        Of each channel, or one of all; subtracted, and divided by.

    Raises
    ------
    FileNotFoundError
        When there are no classes, or one has no images.

    Attributes
    ----------
    classes : tuple of str
    files : tuple of (Path, int)
        Each with the number of its class.
    """

    def __init__(self,
                 path: str | Path,
                 *,
                 size: int = 224,
                 mean: Sequence[float] = _MEAN,
                 deviation: Sequence[float] = _DEVIATION) -> None:
        check_least(1, size=size)
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder; it should have "
                                    "one folder of images for each class")
        self.classes = tuple(
            sorted(p.name for p in folder.iterdir()
                   if p.is_dir() and not p.name.startswith(".")))
        if not self.classes:
            raise FileNotFoundError(f"{folder} has no folders of classes; put "
                                    "images into CLASS/ below it")
        files: list[tuple[Path, int]] = []
        for number, name in enumerate(self.classes):
            found = sorted(p for p in (folder / name).rglob("*")
                           if p.suffix.lower() in (*_PICTURES, *_ARRAYS))
            if not found:
                raise FileNotFoundError(
                    f"{folder / name} has no images ("
                    f"{', '.join((*_PICTURES, *_ARRAYS))}); remove it, or "
                    "fill it")
            files += [(p, number) for p in found]
        self.files = tuple(files)
        self.size = size
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._deviation = torch.tensor(deviation).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image = decoded(self.files[index][0])
        scale = self.size / 0.875 / min(image.shape[1:])
        height, width = (max(self.size, round(n * scale))
                         for n in image.shape[1:])
        image = _resized(image, height, width)
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return self.finished(
            index, image[:, top:top + self.size, left:left + self.size])

    def finished(self, index: int, image: torch.Tensor) -> Sample:
        """An image of the right size, normalised and labelled."""
        path, label = self.files[index]
        channels = len(self._mean)
        if channels not in (1, image.shape[0]):
            raise ValueError(f"{path} has {image.shape[0]} channels, but mean "
                             f"has {channels}; give one for each (arrays are "
                             "channels, height, width)")
        image = (image - self._mean) / self._deviation
        return {"images": image.contiguous(), "labels": torch.tensor(label)}


class AugmentedImages:
    """Random parts of a folder's images, half of them mirrored.

    The usual training of ImageNet: 8 to 100 % of the area, with a ratio of
    the sides between 3/4 and 4/3 (C. Szegedy et al., Going Deeper with
    Convolutions, CVPR 2015).

    Parameters
    ----------
    folder : ImageFolder
    """

    def __init__(self, folder: ImageFolder) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(self.folder)

    def augmented(self, index: int, seed: int) -> Sample:
        """A sample as it looks under a seed."""
        draw = random.Random(seed)
        image = decoded(self.folder.files[index][0])
        top, left, height, width = _part(draw, *image.shape[1:])
        size = self.folder.size
        image = _resized(image[:, top:top + height, left:left + width], size,
                         size)
        if draw.random() < 0.5:
            image = image.flip(2)
        return self.folder.finished(index, image)


@register("images")
def image_folder(
        *,
        path: str,
        size: int = 224,
        augment: bool = False,
        mean: Sequence[float] = _MEAN,
        deviation: Sequence[float] = _DEVIATION) -> Source | Augmented:
    """A folder's images.

    Parameters
    ----------
    path : str
    size : int
        Height and width of what comes out, in pixels.
    augment : bool
        Whether they are cropped and mirrored at random, as for training.
    mean, deviation : sequence of float
        Of each channel; subtracted, and divided by.

    Returns
    -------
    Source or Augmented
        Samples as :class:`ImageFolder` gives them.
    """
    folder = ImageFolder(path, size=size, mean=mean, deviation=deviation)
    return AugmentedImages(folder) if augment else folder


def decoded(path: Path) -> torch.Tensor:
    """An image file as floats from 0 to 1, (channels, height, width).

    Raises
    ------
    ImportError
        For a picture, without Pillow.
    ValueError
        Naming the file that can't be read.
    """
    try:
        if path.suffix.lower() == ".npy":
            image = torch.from_numpy(np.load(path, allow_pickle=False))
        elif path.suffix.lower() == ".pt":
            image = torch.load(path, weights_only=True, map_location="cpu")
        else:
            image = _picture(path)
    except ImportError:
        raise
    except Exception as error:  # decoders raise what they like
        # What follows in theirs advises to unpickle the file.
        text = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(f"{path} can't be read: it is truncated, corrupt or "
                         f"no image ({type(error).__name__}: {text})") \
            from None
    if not isinstance(image, torch.Tensor) or image.ndim != 3 or \
            0 in image.shape:
        what = tuple(image.shape) if isinstance(
            image, torch.Tensor) else type(image).__name__
        raise ValueError(f"{path} holds {what}, not an image of (channels, "
                         "height, width)")
    return image / 255.0 if image.dtype == torch.uint8 else image.float()


def _picture(path: Path) -> torch.Tensor:
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(f"{path} needs the package Pillow: pip install "
                          "pillow, or store images as .npy or .pt arrays") \
            from None
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if tuple(image.shape[1:]) == (height, width):
        return image
    return F.interpolate(image[None], (height, width),
                         mode="bilinear",
                         antialias=True)[0]


def _part(draw: random.Random, height: int,
          width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part."""
    for _ in range(10):
        area = height * width * draw.uniform(0.08, 1.0)
        ratio = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        tall, wide = round((area / ratio)**0.5), round((area * ratio)**0.5)
        if 0 < tall <= height and 0 < wide <= width:
            return (draw.randint(0, height - tall),
                    draw.randint(0, width - wide), tall, wide)
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
