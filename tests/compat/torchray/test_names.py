"""Names, arguments and defaults are those of TorchRay's documentation, and the reference lists them."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ...sweeps import long

PAGE = Path(__file__).resolve().parents[3] / "docs" / "api" / "compat_torchray.md"
HERE = "funcattr.compat.torchray"

# As documented: name -> arguments, with the repr of their defaults.
SIGNATURES = {
    "attribution.common.saliency": "model, input, target, saliency_layer='', resize=False, resize_mode='bilinear', "
    "smooth=0, context_builder=NullContext, gradient_to_saliency=gradient_to_saliency, "
    "get_backward_gradient=get_backward_gradient, debug=False",
    "attribution.common.Probe": "module, target='input'",
    "attribution.common.Patch": "target, new_callable",
    "attribution.common.ReLUContext": "relu_func",
    "attribution.common.attach_debug_probes": "model, debug=False",
    "attribution.common.get_backward_gradient": "pred_y, y",
    "attribution.common.get_pointing_gradient": "pred_y, y, normalize=True",
    "attribution.common.get_module": "model, module",
    "attribution.common.gradient_to_saliency": "x",
    "attribution.common.resize_saliency": "tensor, saliency, size, mode",
    "attribution.gradient.gradient": "*args, context_builder=None, **kwargs",
    "attribution.guided_backprop.guided_backprop": "*args, context_builder=GuidedBackpropContext, **kwargs",
    "attribution.deconvnet.deconvnet": "*args, context_builder=DeConvNetContext, **kwargs",
    "attribution.grad_cam.grad_cam": "*args, saliency_layer, gradient_to_saliency=gradient_to_grad_cam_saliency, "
    "**kwargs",
    "attribution.linear_approx.linear_approx": "*args, gradient_to_saliency=gradient_to_linear_approx_saliency, "
    "**kwargs",
    "attribution.excitation_backprop.excitation_backprop": "*args, context_builder=ExcitationBackpropContext, "
    "gradient_to_saliency=gradient_to_excitation_backprop_saliency, **kwargs",
    "attribution.excitation_backprop.contrastive_excitation_backprop": "model, input, target, saliency_layer, "
    "contrast_layer, classifier_layer=None, resize=False, resize_mode='bilinear', "
    "get_backward_gradient=get_backward_gradient, debug=False",
    "attribution.excitation_backprop.ExcitationBackpropContext": "enable=True, debug=False",
    "attribution.rise.rise": "model, input, target=None, seed=0, num_masks=8000, num_cells=7, filter_masks=None, "
    "batch_size=32, p=0.5, resize=False, resize_mode='bilinear'",
    "attribution.rise.rise_class": "*args, target, **kwargs",
    "attribution.extremal_perturbation.extremal_perturbation": "model, input, target, areas=[0.1], "
    "perturbation='blur', max_iter=800, num_levels=8, step=7, sigma=21, jitter=True, variant='preserve', "
    "print_iter=None, debug=False, reward_func=simple_reward, resize=False, resize_mode='bilinear', smooth=0",
    "attribution.extremal_perturbation.Perturbation": "input, num_levels=8, max_blur=20, type='blur'",
    "utils.imsc": "img, *args, quiet=False, lim=None, interpolation='lanczos', **kwargs",
    "utils.imarraysc": "tiles, spacing=0, quiet=False, lim=None, interpolation='lanczos'",
    "utils.imread": "file, as_pil=False, resize=None, to_rgb=False",
    "utils.imsmooth": "tensor, sigma, stride=1, padding=0, padding_mode='constant', padding_value=0",
    "utils.resample": "source, target_size, transform",
    "benchmark.get_transform": "dataset='imagenet', size=224",
    "benchmark.get_model": "arch='vgg16', dataset='voc', convert_to_fully_convolutional=False",
    "benchmark.get_dataset": "name, subset, dataset_dir=None, annotation_dir=None, transform=None, limiter=None, "
    "download=False",
    "benchmark.PointingGame": "num_classes, tolerance=15",
    "benchmark.PointingGameBenchmark": "dataset, tolerance=15, difficult=False",
    "attribution.extremal_perturbation.simple_reward": "activation, target, variant",
    "attribution.extremal_perturbation.contrastive_reward": "activation, target, variant",
}


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"{HERE}.{module}"), name)


def written(value: Any) -> str:
    """The arguments of a call, without annotations."""
    parts = []
    for p in inspect.signature(value).parameters.values():
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        default = "" if p.default is p.empty else f"={getattr(p.default, '__name__', None) or repr(p.default)}"
        parts.append(f"{star}{p.name}{default}")
    return ", ".join(parts)


@pytest.mark.parametrize("path", SIGNATURES)
def test_arguments_and_defaults_are_the_documented_ones(path: str) -> None:
    assert written(named(path)) == SIGNATURES[path]


def listed() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    return {module: re.findall(r"`(\w+)`", names) for module, names in rows}


def test_the_reference_lists_names_that_are_there_and_described() -> None:
    table = listed()
    assert len(table) == 12 and sum(map(len, table.values())) > 60
    for module, names in table.items():
        for name in names:
            value = named(f"{module}.{name}")
            assert value.__doc__ if inspect.isfunction(value) or inspect.isclass(value) else value, name
    assert all(path.rpartition(".")[2] in table[path.rpartition(".")[0]] for path in SIGNATURES)


@long
def test_importing_the_package_imports_no_names_of_others() -> None:
    code = "import sys, funcattr; sys.exit(any(name.startswith('funcattr.compat') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
