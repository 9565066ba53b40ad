"""Long loops over samples, steps or masks: in chunks, with bounded memory, and one compiled body."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .._torch import may_scan, pytree, scan
from ..attribution.question import Question

C = TypeVar("C")
T = TypeVar("T")
Outputs = tuple[Tensor, ...]
Body = Callable[[C, Tensor], tuple[C, Outputs]]

MOST_EXAMPLES = 16
MOST_ELEMENTS = 2**22


def chunk_of(call: str, chunk_size: int | None, count: int, example: int, examples: int = 1) -> int:
    """How many of `count` samples run at once.

    By default as many as make 16 examples or 4 million input values, whichever is less: a ResNet50 at 224x224 then
    keeps some 2 GiB for its reverse pass.

    Args:
        call: First words of errors.
        chunk_size: What the user asks for, None for the default.
        count: Samples in all.
        example: Values of one example.
        examples: Examples that run for each sample.
    """
    if chunk_size is None:
        return max(1, min(count, MOST_EXAMPLES // examples, MOST_ELEMENTS // (examples * max(1, example))))
    return min(count, positive(call, "chunk_size", chunk_size))


def chunk_for(question: Question, chunk_size: int | None, count: int) -> int:
    """How many of `count` samples of a question's examples run at once; one, where the examples have no dimension."""
    chunk = chunk_of(question.call, chunk_size, count, question.example_size, question.examples)
    return 1 if question.layout is not None and question.layout.has_one_example else chunk


def positive(call: str, name: str, value: Any) -> int:
    """`value`, an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{call}({name}=...): expected an int, got {type(value).__name__}.")
    if value < 1:
        raise ValueError(f"{call}({name}={value}): expected at least 1.")
    return value


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to sum many values in: single precision at least."""
    return torch.promote_types(dtype, torch.float32)


def loop(
    call: str, body: Body[C], carry: C, count: int, chunk: int, *, device: torch.device, progress: bool = False
) -> tuple[C, Outputs]:
    """Fold `body(carry, samples) -> (carry, outputs)` over the samples 0 .. count - 1, `chunk` of them at a time.

    In compiled code it is one `scan`, whose body is compiled once (a second time for a smaller last chunk). Where torch
    cannot put a scan (inside `vmap`, `grad` and the body of another), the chunks are written out.

    Args:
        call: What the progress bar says.
        body: A pure function; `samples` are the chunk's numbers [c], its outputs are tensors [c, ...].
        carry: A tree of tensors, whose shapes and dtypes the body keeps. None: zeros, shaped as what the body returns
            for a carry of None.
        count, chunk: As from `chunk_of`.
        device: Where `samples` are.
        progress: Whether to show a bar (not in compiled code).

    Returns:
        The last carry, and the outputs joined: each [count, ...].
    """
    samples = torch.arange(count, device=device)
    if torch.compiler.is_dynamo_compiling() and count >= 2 * chunk and may_scan():
        return _scanned(body, carry, samples, chunk)
    parts: list[Outputs] = []
    for part in with_bar(call, samples.split(chunk), progress):
        carry, outputs = body(carry, part)
        parts.append(outputs)
    return carry, _joined(parts)


def with_bar(
    call: str, items: Iterable[T], progress: bool, unit: str = "chunk", total: int | None = None
) -> Iterable[T]:
    """The items, with a progress bar if it is asked for, and never in compiled code.

    Args:
        call: What the bar says.
        items: What is gone through.
        progress: Whether there is a bar.
        unit: What an item is.
        total: How many there are, if their own length does not say it.
    """
    if torch.compiler.is_dynamo_compiling():
        return items
    return tqdm(items, total=total, disable=not progress, desc=call, unit=unit, leave=False)


def _joined(parts: list[Outputs]) -> Outputs:
    return parts[0] if len(parts) == 1 else tuple(torch.cat(each) for each in zip(*parts, strict=True))


def _scanned(body: Body[C], carry: C, samples: Tensor, chunk: int) -> tuple[C, Outputs]:
    whole = len(samples) // chunk * chunk
    chunks, rest = samples[:whole].reshape(-1, chunk), samples[whole:]

    def scannable(carry: Any, samples: Tensor) -> Any:
        # Inductor takes no scan without outputs, autograd none with integers.
        carry, outputs = body(carry, samples)
        return carry, (*outputs, samples.to(torch.float32))

    carry, (*stacked, _) = _scan(scannable, carry, chunks)
    outputs = tuple(out.flatten(0, 1) for out in stacked)
    if not len(rest):
        return carry, outputs
    carry, last = body(carry, rest)
    return carry, _joined([outputs, last])


def _scan(body: Body[C], carry: C, chunks: Tensor) -> Any:
    # Nothing of this first run is used but shapes, so nothing of it is compiled.
    probe = body(carry, chunks[0])
    if carry is None:
        carry = pytree.tree_map(torch.zeros_like, probe[0])
    # A scan says that its results need a gradient wherever the model's weights do, though the body holds them constant.
    if any(value.requires_grad for value in pytree.tree_leaves(probe)):
        return scan(body, carry, chunks)
    with torch.no_grad():
        return scan(body, carry, chunks)
