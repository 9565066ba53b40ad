"""TorchRay's benchmark: an example, the pointing game, and its data sets, as `torchray.benchmark`."""

from .datasets import COCO_CLASSES as COCO_CLASSES
from .datasets import VOC_CLASSES as VOC_CLASSES
from .datasets import CocoDetection as CocoDetection
from .datasets import VOCDetection as VOCDetection
from .datasets import coco_as_class_ids as coco_as_class_ids
from .datasets import coco_as_image_name as coco_as_image_name
from .datasets import coco_as_image_size as coco_as_image_size
from .datasets import coco_as_mask as coco_as_mask
from .datasets import get_dataset as get_dataset
from .datasets import voc_as_class_ids as voc_as_class_ids
from .datasets import voc_as_image_name as voc_as_image_name
from .datasets import voc_as_image_size as voc_as_image_size
from .datasets import voc_as_mask as voc_as_mask
from .example import get_example_data as get_example_data
from .example import plot_example as plot_example
from .models import get_model as get_model
from .models import get_transform as get_transform
from .pointing_game import PointingGame as PointingGame
from .pointing_game import PointingGameBenchmark as PointingGameBenchmark
