"""The parts of the information bottleneck: statistics of a layer, capacity, and the readout network."""

from .methods.bottleneck.feature_statistics import FeatureStatistics as FeatureStatistics
from .methods.bottleneck.feature_statistics import feature_statistics as feature_statistics
from .methods.bottleneck.flow import RestrictedFlow as RestrictedFlow
from .methods.bottleneck.flow import capacity as capacity
from .methods.bottleneck.flow import restrict as restrict
from .methods.bottleneck.flow import restrict_flow as restrict_flow
from .methods.bottleneck.flow import to_saliency_map as to_saliency_map
from .methods.bottleneck.iba import InformationBottleneck as InformationBottleneck
from .methods.bottleneck.iba import iba_search as iba_search
from .methods.bottleneck.readout import ReadoutBottleneck as ReadoutBottleneck
from .methods.bottleneck.train_readout import ReadoutTraining as ReadoutTraining
from .methods.bottleneck.train_readout import train_readout as train_readout
