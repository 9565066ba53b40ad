"""Relevance propagation by one rule for every linear map."""

from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from ... import Rulebook, lrp
from ...errors import FuncattrError
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
        target = output.argmax(1) if rel_for_class is None else int(rel_for_class)
        return output, lrp(lambda x: self.model(x).flatten(1), self._last, target, rules=self._rules).detach()

    def get_r_values_per_layer(self) -> NoReturn:
        """Refused: relevance inside the model is asked for by layer."""
        raise FuncattrError(
            "InnvestigateModel.get_r_values_per_layer: ask for a layer: funcattr.lrp(model, x, target, layer=..., "
            "rules=funcattr.compat.tensorwatch.rulebook(...))."
        )
