"""The methods that the command line has, and their options by the words of the Python interface."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .. import (
    ablation_cam,
    attnlrp,
    contrastive_excitation_backprop,
    cp_lrp,
    deconvnet,
    deep_lift,
    eigen_cam,
    eigen_grad_cam,
    excitation_backprop,
    expected_gradients,
    extremal_perturbation,
    feature_ablation,
    full_grad,
    grad_cam,
    grad_cam_plus_plus,
    gradient,
    guided_backprop,
    guided_grad_cam,
    hires_cam,
    input_x_gradient,
    integrated_gradients,
    internal_influence,
    kernel_shap,
    layer_cam,
    layer_conductance,
    lime,
    linear_approx,
    lrp,
    noise_tunnel,
    occlusion,
    rise,
    score_cam,
    shapley_sampling,
    xgrad_cam,
)
from ..scale.bound_method import TUNNEL, BoundMethod
from .command_error import CommandError

METHODS: dict[str, Callable[..., Any]] = {
    method.__name__: method
    for method in (
        gradient, input_x_gradient, full_grad, guided_backprop, deconvnet, guided_grad_cam, grad_cam, layer_cam,
        hires_cam, grad_cam_plus_plus, xgrad_cam, eigen_cam, eigen_grad_cam, score_cam, ablation_cam, linear_approx,
        lrp, attnlrp, cp_lrp, excitation_backprop, contrastive_excitation_backprop, deep_lift, integrated_gradients,
        expected_gradients, internal_influence, layer_conductance, occlusion, feature_ablation, shapley_sampling,
        kernel_shap, lime, rise, extremal_perturbation,
    )
}  # fmt: skip

MAGNITUDES = {"gradient", "guided_backprop", "deconvnet", "guided_grad_cam"}
"""Rates of change and details: their sizes say more than their signs, which cancel in a sum."""

OF_IMAGES = {"full_grad", "guided_grad_cam", "occlusion", "rise", "score_cam", "extremal_perturbation"}
"""What covers or enlarges places."""


def numbers(text: str) -> tuple[float, ...]:
    """1,2.5 -> (1.0, 2.5)"""
    return tuple(float(part) for part in text.split(","))


def integers(text: str) -> tuple[int, ...]:
    """16,16 -> (16, 16)"""
    return tuple(int(part) for part in text.split(","))


class Option(NamedTuple):
    """An option of some methods."""

    read: Callable[[str], Any]
    help: str


OPTIONS: dict[str, Option] = {
    "layer": Option(str, "site in place of the input, or whose features make the map"),
    "contrast_layer": Option(str, "further site of contrastive_excitation_backprop"),
    "channel_dim": Option(int, "dimension of the channels at the layer: -1 for tokens"),
    "rules": Option(str, "name of a rulebook"),
    "start": Option(str, "relevance at the target: output or one"),
    "baseline": Option(float, "the input that stands for nothing: one number, in the model's units"),
    "steps": Option(int, "points of an integration, or steps of a search"),
    "quadrature": Option(str, "rule of numerical integration"),
    "samples": Option(int, "random draws"),
    "sigma": Option(float, "standard deviation of the noise, in the model's units"),
    "kind": Option(str, "of noise_tunnel: smoothgrad, smoothgrad_sq or vargrad"),
    "window": Option(integers, "of occlusion: height,width of the window"),
    "stride": Option(integers, "of occlusion: step of the window, one number or two"),
    "feature_mask": Option(int, "of images: the features are squares of so many pixels"),
    "cells": Option(int, "of rise: cells of the coarse masks along a side"),
    "activation": Option(str, "of rise: what scores are made of outputs: sigmoid or softmax"),
    "p": Option(float, "of rise: share of a mask that is kept"),
    "areas": Option(numbers, "of extremal_perturbation: share of the pixels that is kept"),
    "chunk_size": Option(int, "passes at once; it changes no result"),
}


class Chosen(NamedTuple):
    """A method with its options."""

    name: str
    """As on the command line: lrp, noise_tunnel:gradient."""
    options: dict[str, Any]

    @property
    def method(self) -> str:
        """The method's own name; that of the inner one in a noise tunnel."""
        return self.name.removeprefix(f"{TUNNEL}:")

    @property
    def signature(self) -> dict[str, inspect.Parameter]:
        """The arguments of the method; in a noise tunnel, those of the tunnel come first."""
        found = dict(inspect.signature(METHODS[self.method]).parameters)
        return found | dict(inspect.signature(noise_tunnel).parameters) if self.name != self.method else found

    @property
    def magnitude(self) -> bool:
        """Whether its map is of sizes."""
        return self.method in MAGNITUDES

    def says(self) -> str:
        """The name and the options, those by default too, for people."""
        usual = {word: parameter.default for word, parameter in self.signature.items()}
        every = {word: (usual | self.options)[word] for word in OPTIONS if word in usual}
        said = {word: value for word, value in every.items() if value not in (None, inspect.Parameter.empty)}
        return self.name + "".join(f", {word}={_text(value)}" for word, value in said.items())

    def attribute(self, model: Any, x: Any, target: int | None, *, seed: int, **more: Any) -> Any:
        """The attributions of the model's output `target`, with more keywords for those that take them."""
        keywords = {name: value for name, value in more.items() if name in self.signature} | self.options
        return BoundMethod(self.name, model, keywords)(x, target, seed)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def chosen_methods(text: str, options: dict[str, Sequence[str]]) -> list[Chosen]:
    """The methods that `--method` names, each with its options.

    Args:
        text: Names, separated by commas.
        options: Word -> what was said, each `VALUE`, or `METHOD=VALUE` for one of several methods.

    Raises:
        CommandError: If there is no such method, it does not take an option, or a value cannot be read.
    """
    names = list(dict.fromkeys(_known(name.strip()) for name in text.split(",")))
    chosen = [Chosen(name, {}) for name in names]
    for word, said in options.items():
        for value in said:
            _give(chosen, word, value)
    return chosen


def _known(name: str) -> str:
    if name == TUNNEL:
        raise CommandError(f"--method {name}: expected the method whose maps are averaged: {TUNNEL}:gradient, say.")
    if name.removeprefix(f"{TUNNEL}:") in METHODS:
        return name
    closest = difflib.get_close_matches(name, METHODS, n=3)
    way_out = f"Closest: {', '.join(closest)}." if closest else f"There are: {', '.join(METHODS)}, {TUNNEL}:METHOD."
    raise CommandError(f"--method {name}: no such method on the command line. {way_out}")


def _give(chosen: list[Chosen], word: str, said: str) -> None:
    """Add what was said of an option to the methods that it is for."""
    spelling = spelled(word)
    whose, equals, value = said.partition("=")
    names = [method.name for method in chosen]
    if equals and whose in names:
        takers = [method for method in chosen if method.name == whose]
    else:
        takers, value = chosen, said
        optional = [m for m in chosen if word == "layer" and word in m.signature and not lacks(m, word)]
        if optional and len(chosen) > 1:
            whose = next((m.name for m in chosen if lacks(m, word)), chosen[0].name)
            raise CommandError(
                f"{spelling} {said}: {optional[0].name} would be of the layer too, not of the input. Say whose it is: "
                f"{spelling} {whose}={value}."
            )
    for method in takers:
        if word not in method.signature:
            every = ", ".join(name for name in METHODS if word in inspect.signature(METHODS[name]).parameters)
            every = every or f"{TUNNEL}:METHOD"
            able = next((m.name for m in chosen if word in m.signature), None)
            fix = f"Say whose it is: {spelling} {able}={value}." if able else f"These do: {every}."
            raise CommandError(f"{spelling} {said}: {method.name} has no such option. {fix}")
        try:
            method.options[word] = OPTIONS[word].read(value)
        except ValueError as error:
            kinds = {int: "a whole number", float: "a number", integers: "whole numbers, as 16,16", numbers: "numbers"}
            raise CommandError(f"{spelling} {said}: expected {kinds[OPTIONS[word].read]}, got {value!r}.") from error


def spelled(word: str) -> str:
    """A word of the Python interface as an option of the command line."""
    return "--" + word.replace("_", "-")


def lacks(method: Chosen, word: str) -> bool:
    """Whether the method cannot do without an option that was not said."""
    parameter = method.signature.get(word)
    return parameter is not None and parameter.default is inspect.Parameter.empty and word not in method.options
