"""Masks of images: smooth ones of a given area, those of RISE, patches, and inputs perturbed by a mask."""

from .methods.extremal.area_loss import area_loss as area_loss
from .methods.extremal.extremal_perturbation import ExtremalPerturbation as ExtremalPerturbation
from .methods.extremal.extremal_perturbation import extremal_search as extremal_search
from .methods.extremal.perturbation_pyramid import perturb as perturb
from .methods.extremal.perturbation_pyramid import perturbation_pyramid as perturbation_pyramid
from .methods.extremal.smooth_mask import crop as crop
from .methods.extremal.smooth_mask import smooth_mask as smooth_mask
from .methods.perturbation.patches import patches as patches
from .methods.perturbation.rise import rise_masks as rise_masks
