"""The names of `tensorwatch.saliency`: maps by the names of methods, and its two rules of relevance propagation."""

from ...rules import b_rule as b_rule
from ...rules import e_rule as e_rule
from .innvestigate import InnvestigateModel as InnvestigateModel
from .innvestigate import rulebook as rulebook
from .saliency import ImageSaliencyResult as ImageSaliencyResult
from .saliency import get_image_saliency_plot as get_image_saliency_plot
from .saliency import get_image_saliency_results as get_image_saliency_results
from .saliency import get_saliency as get_saliency
