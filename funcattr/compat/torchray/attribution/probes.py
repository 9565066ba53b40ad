"""Probes of a live model, the tensors that a module takes or gives and their gradients; and a pass with them."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from .... import FuncattrError


class Probe:
    """Notes the tensors that a module takes or gives in each forward pass, with their gradients.

    A forward hook of the module, the one thing in funcattr that is put on a live model; `remove` takes it away, and so
    does the end of a `with`. The tensors in `data` keep their gradients in `.grad`; the model goes on with copies of
    them, so that no module writes over what a probe holds.

    Args:
        module: The module, of a model that is run as usual.
        target: "input" or "output".

    Attributes:
        data: The tensors of the last forward pass.
        contrast: Tensors that are subtracted from the gradients there, for contrastive excitation backpropagation.

    Raises:
        ValueError: If `target` is another word.

    Example:
        >>> module = nn.ReLU()
        >>> probe = Probe(module)
        >>> module(torch.tensor([-1.0, 2.0])).sum().backward()
        >>> probe.data[0].grad
        tensor([0., 1.])
        >>> probe.remove()
    """

    def __init__(self, module: nn.Module, target: str = "input") -> None:
        if target not in ("input", "output"):
            raise ValueError(f"Probe(target={target!r}): expected 'input' or 'output'.")
        self.module, self.target, self._place = module, target, id(module)
        self.data: list[Tensor] = []
        self.contrast: list[Tensor] | None = None
        if target == "input":
            self._hook = module.register_forward_pre_hook(lambda module, inputs: self._noted(module, inputs))
        else:
            self._hook = module.register_forward_hook(lambda module, _, output: self._noted(module, output))

    def remove(self) -> None:
        """Take the probe off its module; `data` stays."""
        self._hook.remove()

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()

    def _noted(self, module: nn.Module, value: Any) -> Any:
        # The copies that funcattr's methods run have copies of this probe too.
        if id(module) != self._place:
            return None
        self.data = []
        return self._with_copies(value)

    def _with_copies(self, value: Any) -> Any:
        """The value, with a copy in place of each tensor in it that is noted."""
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self._with_copies, value))
        if isinstance(value, list | tuple):
            return type(value)(map(self._with_copies, value))
        if isinstance(value, dict):
            return type(value)((key, self._with_copies(inner)) for key, inner in value.items())
        return self._copy(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    def _copy(self, tensor: Tensor) -> Tensor:
        noted = tensor
        if not torch.is_grad_enabled():
            self.data.append(noted)
            return tensor
        if not tensor.requires_grad:
            noted = tensor.detach()  # the user's own tensor gets no flag
            noted.requires_grad_(True)
        noted.retain_grad()
        copy, place = noted.clone(), len(self.data)
        self.data.append(noted)
        if self.contrast is not None:
            contrast = self.contrast[place]
            copy.register_hook(lambda p: p - contrast)
        return copy


def attach_debug_probes(model: nn.Module, debug: bool = False) -> OrderedDict[str, Probe] | None:
    """Probes of all modules by name: of what the model takes, and of what each module in it gives.

    Args:
        model: A module.
        debug: Without it there are none.

    Returns:
        The probes, or None. Take each off with `remove`.

    Example:
        >>> probes = attach_debug_probes(nn.Sequential(nn.ReLU()), debug=True)
        >>> [(name, probe.target) for name, probe in probes.items()]
        [('', 'input'), ('0', 'output')]
    """
    if not debug:
        return None
    modules = model.named_modules()
    return OrderedDict((name, Probe(module, "output" if name else "input")) for name, module in modules)


def get_module(model: nn.Module, module: str | nn.Module) -> nn.Module | None:
    """A module of a model by its name, None if there is none; a module is returned as it is.

    Example:
        >>> get_module(nn.Sequential(nn.ReLU()), "0")
        ReLU()
    """
    return module if isinstance(module, nn.Module) else dict(model.named_modules()).get(module)


def with_gradient(value: Tensor, gradient: Tensor) -> Tensor:
    """A tensor of its own with the value, and the gradient in its `.grad`."""
    own = value.detach().clone()
    own.grad = gradient
    return own


def live_pass(
    model: nn.Module,
    input: Tensor,
    target: Any,
    layer: str | nn.Module,
    context: Any,
    get_backward_gradient: Any,
    debug: bool,
    contrast: tuple[str, Tensor] | None = None,
) -> tuple[Tensor, OrderedDict[str, Probe] | None]:
    """The activation at a layer with its gradient in `.grad`, and the probes, of a pass through the live model.

    Args:
        contrast: A layer, and what is subtracted from the gradient there.
        model, input, target, layer, context, get_backward_gradient, debug: As in `saliency`.

    Returns:
        The activation and, with `debug`, the probes of all modules, which are off the model again.
    """
    module = get_module(model, layer) if layer else None
    if layer and module is None:
        raise FuncattrError(f"saliency(saliency_layer={layer!r}): the model has no such layer. See named_modules().")
    x = input.detach().clone()
    x.requires_grad_(True)
    probes = attach_debug_probes(model, debug)
    if probes is not None and contrast is not None:
        probes[contrast[0]].contrast = [contrast[1]]
    probe = Probe(module, target="output") if module is not None else None
    attached = [*(probes or {}).values(), *([] if probe is None else [probe])]
    try:
        with torch.enable_grad(), context():
            output = model(x)
            noted = list(dict.fromkeys([x, *(tensor for each in attached for tensor in each.data)]))
            # Not backward(), which would give the parameters gradients too.
            gradients = torch.autograd.grad(output, noted, get_backward_gradient(output, target), allow_unused=True)
    finally:
        for each in attached:
            each.remove()
    for tensor, gradient in zip(noted, gradients, strict=True):
        tensor.grad = gradient
    return x if probe is None else probe.data[0], probes
