"""The names of `IBA.pytorch`, `IBA.pytorch_readout` and `IBA.utils`, the package of the paper's authors."""

from .bottleneck import IBA as IBA
from .bottleneck import insert_into_sequential as insert_into_sequential
from .estimator import TorchWelfordEstimator as TorchWelfordEstimator
from .estimator import WelfordEstimator as WelfordEstimator
from .imagenet import get_imagenet_folder as get_imagenet_folder
from .imagenet import imagenet_transform as imagenet_transform
from .imagenet import load_monkeys as load_monkeys
from .imagenet import tensor_to_np_img as tensor_to_np_img
from .readout import IBAReadout as IBAReadout
from .saliency_map import plot_saliency_map as plot_saliency_map
from .saliency_map import to_saliency_map as to_saliency_map
from .saliency_map import to_unit_interval as to_unit_interval
