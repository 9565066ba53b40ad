"""PASCAL VOC and COCO detections from a folder, as `torchray.benchmark.datasets`."""

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from .... import FuncattrError

VOC_CLASSES: list[str] = [
    *"aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person".split(),
    *"pottedplant sheep sofa train tvmonitor".split(),
]
"""The classes of PASCAL VOC."""

COCO_CLASSES = [
    *"person,bicycle,car,motorbike,aeroplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign".split(","),
    *"parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella".split(","),
    *"handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove".split(","),
    *"skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple".split(","),
    *"sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,sofa,pottedplant,bed".split(","),
    *"diningtable,toilet,tvmonitor,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink".split(","),
    *"refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush".split(","),
]
"""The classes of COCO, in the order of their categories; those of VOC by the names that they have there."""

_COCO_CATEGORIES = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""The numbers of COCO's categories in its files, in the order of the classes."""


class Dataset(ABC):
    """Images and their labels: `dataset[i]` is `(image, label)`.

    Attributes:
        images: Names of the images.
        classes: Names of the classes.
    """

    images: list[str]
    classes: list[str]
    transform: Callable[[Any], Any] | None
    target_transform: Callable[[Any], Any] | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """The image, RGB of PIL or what the transform makes of it, and its label."""
        from PIL import Image

        if not 0 <= index < len(self):
            raise IndexError(f"{type(self).__name__}[{index}]: it has {len(self)} images.")
        with Image.open(self.file(index)) as opened:
            image: Any = opened.convert("RGB")
        label = self.label(index)
        return (
            image if self.transform is None else self.transform(image),
            label if self.target_transform is None else self.target_transform(label),
        )

    @abstractmethod
    def file(self, index: int) -> Path:
        """Where an image is."""

    @abstractmethod
    def label(self, index: int) -> Any:
        """The label of an image."""

    def get_image_url(self, i: int) -> str:
        """Where an image is, as text."""
        return str(self.file(i))

    @abstractmethod
    def as_class_ids(self, label: Any) -> list[int]:
        """The classes that an image has, each once, in order."""

    @abstractmethod
    def as_mask(self, label: Any, class_id: int) -> Tensor:
        """The pixels of a class. Bool, [H, W]"""

    @abstractmethod
    def as_image_size(self, label: Any) -> tuple[int, int]:
        """(width, height) of the image."""

    @abstractmethod
    def as_image_name(self, label: Any) -> str:
        """The name of the image's file, without its ending."""

    @staticmethod
    def collate(batch: Any) -> tuple[Any, list[Any]]:
        """Pairs of images and labels as a batch of images and a list of labels, for a `DataLoader`."""
        return default_collate([image for image, _ in batch]), [label for _, label in batch]


class VOCDetection(Dataset):
    """PASCAL VOC: `Annotations`, `ImageSets/Main` and `JPEGImages` of a year.

    Args:
        root: The folder that has them, or `VOC<year>` or `VOCdevkit/VOC<year>` with them.
        year: Such as "2007".
        image_set: Name of the list of images, such as "test".
        download: False; nothing is downloaded.
        transform, target_transform: `image of PIL -> image`, and of labels.
        limiter: How many of the first images; or a slice of them.

    Raises:
        FuncattrError: If the folder does not have them.
    """

    def __init__(
        self,
        root: str | Path,
        year: str = "2012",
        image_set: str = "train",
        download: bool = False,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        limiter: int | slice | None = None,
    ) -> None:
        if download:
            raise FuncattrError("VOCDetection(download=True): nothing is downloaded; give a folder that has the data.")
        listed = Path("ImageSets", "Main", f"{image_set}.txt")
        places = [Path(root), Path(root, f"VOC{year}"), Path(root, "VOCdevkit", f"VOC{year}")]
        found = next((place for place in places if (place / listed).is_file()), None)
        if found is None:
            raise FuncattrError(
                f"VOCDetection(root={str(root)!r}, image_set={image_set!r}): expected {listed} in it, in VOC{year} "
                f"or in VOCdevkit/VOC{year}. Nothing is downloaded; get the data at http://host.robots.ox.ac.uk/pascal/VOC."
            )
        self.root, self.classes = found, VOC_CLASSES
        self.transform, self.target_transform = transform, target_transform
        names = [line.split()[0] for line in (found / listed).read_text().splitlines() if line.strip()]
        self.images = _limited(names, limiter)

    def file(self, index: int) -> Path:
        """Where an image is."""
        return self.root / "JPEGImages" / f"{self.images[index]}.jpg"

    def label(self, index: int) -> dict[str, Any]:
        """The annotation as nested dicts, with a list of objects."""
        tree = ElementTree.parse(self.root / "Annotations" / f"{self.images[index]}.xml").getroot()
        found: dict[str, Any] = {child.tag: _as_dict(child) for child in tree if child.tag != "object"}
        return {"annotation": {**found, "object": [_as_dict(child) for child in tree.findall("object")]}}

    def as_class_ids(self, label: Any) -> list[int]:
        """The classes that an image has."""
        return voc_as_class_ids(label)

    def as_mask(self, label: Any, class_id: int) -> Tensor:
        """The pixels in the boxes of a class."""
        return voc_as_mask(label, class_id)

    def as_image_size(self, label: Any) -> tuple[int, int]:
        """(width, height) of the image."""
        return voc_as_image_size(label)

    def as_image_name(self, label: Any) -> str:
        """The name of the image's file, without its ending."""
        return voc_as_image_name(label)


class CocoDetection(Dataset):
    """COCO: a folder of images and a file of instances.

    Args:
        root: The folder of images, such as "val2014".
        annFile: The file, such as "annotations/instances_val2014.json".
        transform, target_transform, limiter: As in `VOCDetection`.

    Raises:
        FuncattrError: If there is no such file, or it has categories that COCO has not.
    """

    def __init__(
        self,
        root: str | Path,
        annFile: str | Path,  # noqa: N803  (its documented name)
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        limiter: int | slice | None = None,
    ) -> None:
        if not Path(annFile).is_file():
            raise FuncattrError(
                f"CocoDetection(annFile={str(annFile)!r}): no such file. Nothing is downloaded; get the data at "
                "https://cocodataset.org."
            )
        table = json.loads(Path(annFile).read_text())
        self.root, self.classes = Path(root), COCO_CLASSES
        self.transform, self.target_transform = transform, target_transform
        others = sorted({annotation["category_id"] for annotation in table["annotations"]} - set(_COCO_CATEGORIES))
        if others:
            raise FuncattrError(
                f"CocoDetection(annFile={str(annFile)!r}): expected COCO's 80 categories, whose numbers end at 90, got "
                f"{others[0]} too. Give data of other classes to a PointingGame by its masks."
            )
        self.infos: dict[int, dict[str, Any]] = {info["id"]: info for info in table["images"]}
        self._of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in table["annotations"]:
            self._of_image[annotation["image_id"]].append(annotation)
        self.ids = _limited(sorted(self.infos), limiter)
        self.images = [self.infos[i]["file_name"] for i in self.ids]

    def file(self, index: int) -> Path:
        """Where an image is."""
        return self.root / self.images[index]

    def label(self, index: int) -> list[dict[str, Any]]:
        """The annotations of the image's objects, as they are in the file."""
        return self._of_image[self.ids[index]]

    def as_class_ids(self, label: Any) -> list[int]:
        """The classes that an image has."""
        return coco_as_class_ids(label)

    def as_mask(self, label: Any, class_id: int) -> Tensor:
        """The pixels in the segments of a class."""
        return coco_as_mask(self, label, class_id)

    def as_image_size(self, label: Any) -> tuple[int, int]:
        """(width, height) of the image; of one without objects there is no mask to ask for."""
        return coco_as_image_size(self, label)

    def as_image_name(self, label: Any) -> str:
        """The name of the image's file, without its ending."""
        return coco_as_image_name(self, label)


def get_dataset(
    name: str,
    subset: str,
    dataset_dir: str | Path | None = None,
    annotation_dir: str | Path | None = None,
    transform: Callable[[Any], Any] | None = None,
    limiter: int | slice | None = None,
    download: bool = False,
) -> Dataset:
    """A data set by its name.

    Args:
        name: "voc_<year>", such as "voc_2007", or "coco".
        subset: The list of images: "test" say, or for COCO "val2014".
        dataset_dir: The folder with it.
        annotation_dir: Of COCO: the folder with "instances_<subset>.json"; by default "annotations" beside the images.
        transform, limiter, download: As in `VOCDetection`.

    Returns:
        A `VOCDetection` or a `CocoDetection`.

    Raises:
        FuncattrError: If there is no such data set, or no folder is given.
    """
    if dataset_dir is None:
        raise FuncattrError(f"get_dataset({name!r}, dataset_dir=None): expected a folder. Nothing is downloaded.")
    if name.startswith("voc_"):
        return VOCDetection(dataset_dir, name.removeprefix("voc_"), subset, download, transform, limiter=limiter)
    if name == "coco":
        annotations = Path(dataset_dir, "annotations") if annotation_dir is None else Path(annotation_dir)
        listed = annotations / f"instances_{subset}.json"
        return CocoDetection(Path(dataset_dir, subset), listed, transform, limiter=limiter)
    raise FuncattrError(f"get_dataset({name!r}): expected 'voc_2007', of another year, or 'coco'.")


def voc_as_class_ids(label: Any) -> list[int]:
    """The classes of a label of VOC, each once, in order."""
    return sorted({VOC_CLASSES.index(found["name"]) for found in label["annotation"]["object"]})


def voc_as_mask(label: Any, class_id: int) -> Tensor:
    """The pixels in the boxes of a class, those of difficult objects too. Bool, [H, W]

    VOC's boxes count pixels from 1, and their last row and column belong to them.
    """
    width, height = voc_as_image_size(label)
    mask = torch.zeros(height, width, dtype=torch.bool)
    for found in label["annotation"]["object"]:
        if found["name"] == VOC_CLASSES[class_id]:
            left, top, right, bottom = (
                round(float(found["bndbox"][edge])) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            mask[max(top - 1, 0) : bottom, max(left - 1, 0) : right] = True
    return mask


def voc_as_image_size(label: Any) -> tuple[int, int]:
    """(width, height) of the image of a label of VOC."""
    size = label["annotation"]["size"]
    return int(size["width"]), int(size["height"])


def voc_as_image_name(label: Any) -> str:
    """The name of the file of the image of a label of VOC, without its ending."""
    return Path(label["annotation"]["filename"]).stem


def coco_as_class_ids(label: Any) -> list[int]:
    """The classes of a label of COCO, each once, in order."""
    return sorted({_COCO_CATEGORIES.index(found["category_id"]) for found in label})


def coco_as_mask(dataset: CocoDetection, label: Any, class_id: int) -> Tensor:
    """The pixels in the segments of a class, those of crowds too. Bool, [H, W]"""
    width, height = dataset.as_image_size(label)
    mask = torch.zeros(height, width, dtype=torch.bool)
    for found in label:
        if _COCO_CATEGORIES.index(found["category_id"]) == class_id:
            mask |= _segment(found["segmentation"], height, width)
    return mask


def coco_as_image_size(dataset: CocoDetection, label: Any) -> tuple[int, int]:
    """(width, height) of the image of a label of COCO, which has an object at least."""
    info = dataset.infos[label[0]["image_id"]]
    return info["width"], info["height"]


def coco_as_image_name(dataset: CocoDetection, label: Any) -> str:
    """The name of the file of the image of a label of COCO, which has an object at least, without its ending."""
    return Path(dataset.infos[label[0]["image_id"]]["file_name"]).stem


def _segment(segmentation: Any, height: int, width: int) -> Tensor:
    """The pixels of polygons, or of a run-length code."""
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    from PIL import Image, ImageDraw

    image = Image.new("1", (width, height))
    for polygon in segmentation:
        ImageDraw.Draw(image).polygon(list(zip(polygon[0::2], polygon[1::2], strict=True)), fill=1, outline=1)
    return torch.from_numpy(np.array(image))


def _run_lengths(code: Any, height: int, width: int) -> Tensor:
    """The pixels of COCO's run-length code: zeros and ones in turn, column by column."""
    counts = code["counts"]
    if isinstance(counts, str | bytes):
        counts = _unpacked(counts.encode() if isinstance(counts, str) else counts)
    values = np.arange(len(counts)) % 2 == 1
    return torch.from_numpy(np.repeat(values, counts).reshape(width, height).T.copy())


def _unpacked(packed: bytes) -> list[int]:
    """The runs of a code packed as text: five bits a character, from the fourth run on as a difference."""
    counts: list[int] = []
    value = place = 0
    for character in packed:
        bits = character - 48
        value |= (bits & 0x1F) << (5 * place)
        place += 1
        if bits & 0x20:
            continue
        if bits & 0x10:
            value |= -1 << (5 * place)
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = place = 0
    return counts


def _as_dict(node: ElementTree.Element) -> Any:
    """An element of XML: its text, or a dict of its children."""
    return {child.tag: _as_dict(child) for child in node} if len(node) else (node.text or "").strip()


def _limited(values: list[Any], limiter: int | slice | None) -> list[Any]:
    return values[limiter] if isinstance(limiter, slice) else values[:limiter]
