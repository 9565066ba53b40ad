"""TorchRay's attribution methods, a module each, as in `torchray.attribution`."""

from .common import NullContext as NullContext
from .common import Probe as Probe
from .deconvnet import DeConvNetContext as DeConvNetContext
from .excitation_backprop import ExcitationBackpropContext as ExcitationBackpropContext
from .guided_backprop import GuidedBackpropContext as GuidedBackpropContext
