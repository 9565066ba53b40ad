"""How many of torch's own operations have a rule, by the space of the rulebook: `python -m tests.operation_table`.

The operations and their inputs are those of torch's own tests (`op_db`), in float64: all that torch differentiates by
their input. One counts if a reverse pass by the rulebook goes through each of the first inputs without an error.
`python -m tests.operation_table fft linalg` tells what is missing among those with one of the words in their name.
"""

import argparse
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from funcattr import rules
from funcattr._torch import pytree
from funcattr.rulebook.rulebook import Rulebook
from funcattr.tape.pairing import Pairing
from funcattr.tape.record import Recording
from funcattr.tape.vjp import recorded

SAMPLES = 6
BOOKS: dict[str, Rulebook] = {
    "relevance": rules.epsilon_everywhere(),
    "gradient": rules.attnlrp(),
    "multiplier": rules.deep_lift(),
}
"""A rulebook for each space."""
Tensors = tuple[Tensor, ...]


class Sample(NamedTuple):
    """An operation as a function of the differentiable tensors of its input, and these."""

    function: Callable[..., Tensors]
    inputs: Tensors


class Row(NamedTuple):
    """An operation, and for each space what keeps it from having a rule, '' for nothing."""

    operation: str
    missing: dict[str, str]


def operations(endings: tuple[str, ...] = ("",)) -> Iterator[tuple[str, list[Sample]]]:
    """Every operation that torch differentiates in float64, with its first inputs; of those with some endings."""
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        name = op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")
        if not op.supports_autograd or torch.float64 not in op.dtypes or not name.endswith(endings):
            continue
        torch.manual_seed(0)
        found = [sample for sample in samples(op) if is_differentiable(sample)]
        if found:
            yield name, found


def samples(op: Any) -> Iterator[Sample]:
    """The first inputs of an operation that have values."""
    count = 0
    try:
        for given in op.sample_inputs("cpu", torch.float64, requires_grad=False):
            sample = as_sample(op, given)
            if sample.inputs and all(t.numel() for t in sample.inputs):
                yield sample
                count += 1
            if count == SAMPLES:
                return
    except Exception:  # torch's own inputs cannot be made here: a library is missing
        return


def as_sample(op: Any, given: Any) -> Sample:
    leaves, spec = pytree.tree_flatten(given.input)
    places = [i for i, t in enumerate(leaves) if isinstance(t, Tensor) and t.is_floating_point()]

    def function(*inputs: Tensor) -> Tensors:
        new = list(leaves)
        for i, x in zip(places, inputs, strict=True):
            new[i] = x
        return differentiable(op(pytree.tree_unflatten(new, spec), *given.args, **given.kwargs))

    return Sample(function, tuple(leaves[i].clone() for i in places))


def differentiable(result: Any) -> Tensors:
    """The tensors of a result that may have a derivative."""
    tensors = (t for t in pytree.tree_leaves(result) if isinstance(t, Tensor))
    return tuple(t for t in tensors if t.is_floating_point() or t.is_complex())


def is_differentiable(sample: Sample) -> bool:
    """Whether torch differentiates the operation here."""
    inputs = [x.clone().requires_grad_() for x in sample.inputs]
    try:
        outputs = [y for y in sample.function(*inputs) if y.requires_grad]
        torch.autograd.grad(outputs, inputs, [torch.ones_like(y) for y in outputs], allow_unused=True)
    except Exception:
        return False
    return bool(outputs)


def pulled(sample: Sample, book: Rulebook, baseline: Tensors | None = None) -> tuple[Tensors, Tensors]:
    """The outputs, and the cotangents of the inputs by a rulebook for a cotangent of ones."""
    how = Recording("operation", book)
    if baseline is not None:
        how = how._replace(pairing=Pairing("operation"))
        recorded(sample.function, baseline, how)
    record = recorded(sample.function, sample.inputs, how)
    return record.output, record.pull(tuple(map(ones, record.output)))


def ones(y: Tensor) -> Tensor:
    """The cotangent of the sum of all real numbers in a tensor."""
    return torch.complex(torch.ones_like(y.real), torch.ones_like(y.real)) if y.is_complex() else torch.ones_like(y)


def near(sample: Sample) -> Tensors:
    """A baseline in whose neighbourhood the operation is defined too."""
    return tuple(0.9 * x + 0.01 for x in sample.inputs)


def what_is_missing(found: list[Sample], book: Rulebook) -> str:
    """The first error of a reverse pass, '' for none."""
    for sample in found:
        try:
            pulled(sample, book, near(sample) if book.space == "multiplier" else None)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""


def rows(words: list[str] = []) -> list[Row]:  # noqa: B006
    """A row for each operation, or for those with one of the words in their name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            Row(name, {space: what_is_missing(found, book) for space, book in BOOKS.items()})
            for name, found in operations()
            if not words or any(word in name for word in words)
        ]


def counts(found: list[Row]) -> dict[str, int]:
    """How many operations have a rule in each space, and how many there are."""
    having = Counter(space for row in found for space, missing in row.missing.items() if not missing)
    return {"all": len(found), **{space: having[space] for space in BOOKS}}


def table(found: dict[str, int]) -> str:
    """The counts as a table in Markdown."""
    head = "| operations | " + " | ".join(f"{space} space" for space in BOOKS) + " |"
    line = "|---" * (1 + len(BOOKS)) + "|"
    return "\n".join([head, line, "| " + " | ".join(str(n) for n in found.values()) + " |"])


def main() -> None:
    """Print the table; with words, what is missing too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--missing", action="store_true", help="what is missing, operation by operation")
    options = parser.parse_args()
    found = rows(options.words)
    if options.words or options.missing:
        for row in found:
            for space, missing in row.missing.items():
                if missing:
                    print(f"{row.operation}: {space}: {' '.join(missing.split())[:160]}")
    print(table(counts(found)))


if __name__ == "__main__":
    main()
