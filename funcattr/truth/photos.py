"""Where is the cat? A network trained on ImageNet, and photographs with boxes drawn by hand."""

import warnings

import torch

from .. import bottleneck, maps, masks
from ..metrics import datasets
from ..metrics.datasets.photos import HIGH, LAST_LAYER, LAYER, LOW
from .catalogue import Sites, of_images
from .subject import Questions, Subject

SITES = Sites(layer=LAST_LAYER, contrast="_conv_head", channels=320, narrow=LAYER)
SIDE, PATCH, WINDOW, SAMPLES = 192, 16, 48, 96


def photos() -> Subject:
    """Where is the cat?

    Raises:
        ImportError: If the extra "demo" is not installed.
    """
    data = datasets.photos(SIDE)
    assert isinstance(data.x, torch.Tensor)
    x = data.x
    blurred = maps.smooth(x, 10.0)
    questions = Questions(
        x,
        data.target,
        blurred,
        blurred,
        masks.patches(x, PATCH),
        masks.patches(x, 2 * PATCH),
        data.regions,
    )
    mirrored = torch.cat([x, x.flip(3), maps.smooth(x, 2.0), maps.smooth(x, 2.0).flip(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that photographs are few is known, and said on the page
        statistics = bottleneck.feature_statistics(data.model, mirrored.split(5), layer=SITES.narrow)
    methods = of_images(
        SITES,
        questions,
        low=LOW,
        high=HIGH,
        sigma=0.15,
        window=WINDOW,
        statistics=statistics,
        samples=SAMPLES,
    )
    return Subject(
        "photos",
        "Where is the cat? A network trained on ImageNet, photographs with boxes drawn by hand",
        data.model,
        (questions,),
        methods,
        steps=8,
        filled=2,
        layers=1,
        tiles=(8, 14),
        radius=0.05,
    )
