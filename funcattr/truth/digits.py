"""Where is the digit? The packaged network and canvases that it has not seen."""

import warnings

import torch

from .. import bottleneck, maps, masks
from ..metrics import datasets
from ..metrics.datasets.digits import LAYER
from .catalogue import Sites, of_images
from .subject import Questions, Subject

SITES = Sites(layer=LAYER, contrast="pool", channels=64, narrow="features.6")
PATCH, WINDOW, SAMPLES = 4, 12, 160


def digits(count: int = 16) -> Subject:
    """Where is the digit?

    Args:
        count: How many of the digits on the canvases are asked about.
    """
    data = datasets.digits()
    chosen = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))[:count]
    x, target = data.x[chosen], data.target[chosen]
    rest = data.x[~torch.isin(torch.arange(len(data.x)), chosen)]
    questions = Questions(
        x,
        target,
        torch.zeros(1, 1, 1, 1),
        maps.smooth(x, 4.0),
        masks.patches(x, PATCH),
        masks.patches(x, 2 * PATCH),
        data.regions[chosen],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some 850 canvases are few, but not that few
        statistics = bottleneck.feature_statistics(data.model, rest.split(50), layer=SITES.narrow)
    methods = of_images(
        SITES,
        questions,
        low=0.0,
        high=1.0,
        sigma=0.05,
        window=WINDOW,
        statistics=statistics,
        samples=SAMPLES,
    )
    return Subject(
        "digits",
        "Where is the digit? A small network, which is nearly always right",
        data.model,
        (questions,),
        methods,
        steps=16,
        filled=3,
        layers=5,
        tiles=(),
        radius=0.02,
    )
