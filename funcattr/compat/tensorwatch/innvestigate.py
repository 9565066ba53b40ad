"""Relevance propagation by one rule for every linear map."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ... import Rulebook, edit, functionalize, lrp, read
from ...errors import FuncattrError, UnknownSiteError
from ...rules import b_rule, composite, e_rule


def rulebook(method: str = "e-rule", *, p: int = 1, beta: float = 0.5, eps: float = 1e-6) -> Rulebook:
    """The rulebook of one of tensorwatch's rules: "e-rule" with the exponent p, or "b-rule" with beta."""
    if method not in ("e-rule", "b-rule"):
        raise ValueError(f"InnvestigateModel(method={method!r}): expected 'e-rule' or 'b-rule'.")
    rule = e_rule(p=p, eps=eps) if method == "e-rule" else b_rule(beta=beta, eps=eps)
    return composite(method, convolution=rule, dense=rule, eps=eps)


class InnvestigateModel(nn.Module):
    """A model, and the relevance of its inputs. The model itself gets no hooks.

    Args:
        the_model: The model.
        lrp_exponent: Whole exponent of the e-rule.
        beta: Of the b-rule.
        epsilon: Stabiliser of both.
        method: "e-rule" or "b-rule".

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = InnvestigateModel(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
        >>> output, relevance = model.innvestigate(torch.ones(1, 3), rel_for_class=1)
        >>> relevance.shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        the_model: nn.Module,
        lrp_exponent: int = 1,
        beta: float = 0.5,
        epsilon: float = 1e-6,
        method: Literal["e-rule", "b-rule"] = "e-rule",
    ) -> None:
        super().__init__()
        self.model = the_model
        self.prediction: Tensor | None = None
        self._rules = rulebook(method, p=lrp_exponent, beta=beta, eps=epsilon)
        self._last: Tensor | None = None
        self._target: Tensor | None = None

    def forward(self, in_tensor: Tensor) -> Tensor:
        """The model's output."""
        return self.evaluate(in_tensor)

    def evaluate(self, in_tensor: Tensor) -> Tensor:
        """The model's output, which is kept with the input for `innvestigate`."""
        output: Tensor = self.model(in_tensor)
        self._last, self.prediction = in_tensor, output
        return output

    def innvestigate(self, in_tensor: Tensor | None = None, rel_for_class: Any = None) -> tuple[Tensor, Tensor]:
        """The output, and the relevance of each input value for a class.

        Args:
            in_tensor: The input; None for the last that was evaluated.
            rel_for_class: The class, for all examples; None for each one's largest.

        Raises:
            RuntimeError: If there is no input.
        """
        if in_tensor is not None:
            with torch.no_grad():
                self.evaluate(in_tensor)
        if self._last is None or self.prediction is None:
            raise RuntimeError("InnvestigateModel.innvestigate: it has seen no input yet. Give in_tensor.")
        output = self.prediction.detach().flatten(1)
        wanted = output.argmax(1) if rel_for_class is None else torch.full((len(output),), int(rel_for_class))
        self._target = wanted.to(output.device)
        return output, lrp(self._flat, self._last, self._target, rules=self._rules).detach()

    def get_r_values_per_layer(self) -> list[Tensor] | None:
        """The relevance of the last `innvestigate` at the output, and at what goes into each layer, the last one first.

        Layers are the modules without modules of their own, in the order in which they run. None before `innvestigate`.

        Raises:
            FuncattrError: If one of them runs more than once.
        """
        if self._last is None or self._target is None:
            return None
        x, target = self._last, self._target
        names = self._in_order(x)
        with torch.no_grad():
            output = self._flat(x.clone())
        chosen = torch.zeros_like(output).scatter(1, target[:, None], output.gather(1, target[:, None]))
        model = functionalize(self.model)
        classes = [int(k) for k in target]
        inside = [
            lrp(model, x, lambda y: y.flatten(1)[range(len(y)), classes], layer=f"{name}@args:0", rules=self._rules)
            for name in reversed(names)
        ]
        return [chosen, *(relevance.detach() for relevance in inside)]

    def _flat(self, x: Tensor) -> Tensor:
        return self.model(x).flatten(1)

    def _in_order(self, x: Tensor) -> list[str]:
        """The names of the modules without modules of their own, as they run."""
        names: list[str] = []

        def noting(name: str) -> Callable[[Any], Any]:
            return lambda value: names.append(name) or value

        leaves = [name for name, module in self.model.named_modules() if name and not list(module.children())]
        with torch.no_grad():
            edit(self.model, {f"{name}@args:0": noting(name) for name in leaves})(x.clone())
            for name in names:
                try:
                    read(self.model, f"{name}#1")(x.clone())
                except UnknownSiteError:
                    continue
                raise FuncattrError(
                    f"InnvestigateModel.get_r_values_per_layer: the layer {name!r} runs more than once. Say which call "
                    f"is meant: funcattr.lrp(model, x, target, layer='{name}#1', rules=...)."
                )
        return names
