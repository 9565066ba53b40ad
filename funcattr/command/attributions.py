"""One method asked about the example: its options made ready, its attributions, and what a picture shows of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import maps, masks, rules
from .classes import Target
from .command_error import CommandError, refusing
from .example import Answer, Example, Shown, sites_with_places
from .images import Photo
from .methods import OF_IMAGES, Chosen, lacks, spelled
from .rows import Row
from .texts import EMBEDS, Words


class Asked(NamedTuple):
    """What is the same for all methods."""

    module: nn.Module
    example: Example
    answer: Answer
    output: str | int | None
    seed: int
    progress: bool
    skip: int | None
    """Tokens of no place in front of those of a vision transformer."""


def with_usual_rules(method: Chosen, shown: Shown) -> Chosen:
    """The method; relevance of a photo goes by the rules that know what black and white are, if none were said."""
    if method.name != "lrp" or not isinstance(shown, Photo) or "rules" in method.options:
        return method
    return method._replace(options={**method.options, "rules": "epsilon_gamma_box"})


def check_method(method: Chosen, asked: Asked) -> None:
    """Whether the method can be asked about this kind of example, and has the options that it needs.

    Raises:
        CommandError: If not.
    """
    shown, name = asked.example.shown, method.name
    if method.method in OF_IMAGES and not isinstance(shown, Photo):
        raise CommandError(
            f"--method {name}: expected an image, for it is of places. For words and columns: feature_ablation."
        )
    if isinstance(shown, Row) and ("layer" in method.options or lacks(method, "layer")):
        raise CommandError(
            f"--method {name}: expected no layer, for a row's attributions are of its columns. lrp, say."
        )
    if not isinstance(shown, Photo) and "feature_mask" in method.options:
        raise CommandError("--feature-mask: it is of images; words and columns are the features of their own.")
    for word in ("layer", "contrast_layer"):
        if lacks(method, word):
            sites = "; ".join(f"{site} {shape}" for site, shape in _sites(asked).items())
            raise CommandError(
                f"--method {name}: expected a layer, {spelled(word)} SITE. The last sites with a value for each place, "
                f"in the order of a call: {sites or 'none'}."
            )
    if lacks(method, "window"):
        raise CommandError(f"--method {name}: expected the size of what is covered in pixels, --window 32,32, say.")
    if isinstance(shown, Photo) and "feature_mask" in method.signature and "feature_mask" not in method.options:
        raise CommandError(
            f"--method {name}: expected the features of an image, --feature-mask 32, say, for squares of 32 pixels. "
            "Without, each value of each pixel would be one."
        )


def attributions_of(method: Chosen, asked: Asked, target: Target) -> Tensor:
    """The method's attributions of one target. [1, ...]

    Raises:
        CommandError: If the method refuses the model, the input or an option.
    """
    ready = method._replace(options=ready_options(method, asked.example))
    index = None if asked.answer.one else target.number
    more = {"output": asked.output, "progress": asked.progress}
    with refusing():
        found = ready.attribute(asked.module, asked.example.x, index, seed=asked.seed, **more)
    return (found[EMBEDS] if isinstance(found, Mapping) else found).detach()


def shown_name(method: Chosen, shown: Shown) -> str:
    """The method's name above its picture. Colours of words have signs, so that it says where there are none."""
    return f"{method.name} (magnitude)" if isinstance(shown, Words) and method.magnitude else method.name


def shown_of(method: Chosen, attributions: Tensor, asked: Asked) -> Tensor:
    """What a picture shows: a map of a photo [1, h, w], a number for each word [T] or column [D].

    Raises:
        CommandError: If the attributions are of other things.
    """
    shown = asked.example.shown
    if not attributions.isfinite().all():
        raise CommandError(
            f"{method.name}: expected finite attributions, got NaN or infinity. --verify says more of the model."
        )
    if isinstance(shown, Photo):
        return _map_of_photo(method, attributions, asked)
    if isinstance(shown, Row):
        return attributions[0]
    if attributions.ndim == 3 and attributions.shape[2] == len(shown.words) and attributions.shape[1] == 1:
        return attributions[0, 0]
    if attributions.ndim == 3 and attributions.shape[1] == len(shown.words):
        return attributions[0].abs().amax(-1) if method.magnitude else attributions[0].sum(-1)
    raise CommandError(
        f"{method.name}: expected a value for each of {len(shown.words)} tokens, got {list(attributions.shape)}. Give "
        "another --layer."
    )


def _map_of_photo(method: Chosen, attributions: Tensor, asked: Asked) -> Tensor:
    if attributions.ndim == 4:
        if method.method == "rise":
            return maps.normalize(attributions)[0]  # none of its values stands for nothing, so the least does
        return (maps.max_abs if method.magnitude else maps.sum)(attributions)[0]
    if attributions.ndim != 3:
        raise CommandError(
            f"{method.name}: expected a value for each place, got {list(attributions.shape)}. Layers with places: "
            f"{'; '.join(f'{site} {shape}' for site, shape in _sites(asked).items())}."
        )
    if asked.skip is None:
        raise CommandError(
            f"{method.name}: the layer has tokens, {list(attributions.shape)}. Say how many in front are of no patch, "
            "class and register tokens: --skip 1 for most vision transformers."
        )
    tokens = attributions[:, 0] if attributions.shape[1] == 1 else (
        attributions.abs().amax(-1) if method.magnitude else attributions.sum(-1)
    )  # fmt: skip
    with refusing(f"{method.name}: "):
        return maps.from_tokens(tokens, skip=asked.skip, like=asked.example.explained)[0]


def _sites(asked: Asked) -> Mapping[str, list[int]]:
    with refusing("the model: "):
        return sites_with_places(asked.example, asked.module)


def ready_options(method: Chosen, example: Example) -> dict[str, Any]:
    """The options as the Python interface takes them."""
    options, shown, x = dict(method.options), example.shown, example.explained
    if isinstance(shown, Photo):
        if "window" in options and len(options["window"]) == 1:
            options["window"] *= 2
        if "stride" in options and len(options["stride"]) == 1:
            options["stride"] *= 2
        if "feature_mask" in options:
            side = options["feature_mask"]
            if side < 1:
                raise CommandError(f"--feature-mask {side}: expected 1 pixel or more.")
            options["feature_mask"] = masks.patches(x, side)
        if options.get("rules") == "epsilon_gamma_box":
            low, high = shown.bounds
            options["rules"] = rules.epsilon_gamma_box(low=low, high=high)
    if isinstance(shown, Words):
        if "feature_mask" in method.signature:
            options["feature_mask"] = {EMBEDS: torch.arange(x.shape[1], device=x.device)[None, :, None].expand_as(x)}
        if "channel_dim" in method.signature:
            options.setdefault("channel_dim", -1)
    return options
