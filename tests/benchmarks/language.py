"""The matrix of a text beside a loop over its tokens: `python -m tests.benchmarks.language`.

A small Llama in float64 has a prompt of 200 tokens, and says 50. The loop calls the method once for each token, on the
whole text. Printed are how far the two agree (the largest difference, relative to the largest number), how much faster
the matrix is, and what one span costs, all tokens that are said: in calls of the method about one token, and in plain
forward and backward passes.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import funcattr
from funcattr.language import explain

from ..language.models import built, byte_level, small
from .measure import turns


class Figures(NamedTuple):
    """What is measured.

    Attributes:
        difference: Of the matrix to the loop, relative to the largest number.
        speedup: Seconds of the loop over those of the matrix.
        span: Seconds of a span's attribution over those of one token's.
        passes: Seconds of a span's attribution over those of a plain forward and backward pass.
    """

    difference: float
    speedup: float
    span: float
    passes: float


def llama(width: int, layers: int, length: int) -> Any:
    """A Llama with random weights, for the tokens of `byte_level`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    return built(LlamaForCausalLM, LlamaConfig(**small(**sizes, max_position_embeddings=length)))


def text(tokens: int) -> str:
    """A text of about as many tokens, and one more."""
    return "".join(byte_level().decode([i]) for i in torch.randint(262, 330, (tokens,)).tolist())


def measured(method: Any, prompt: int, said: int, width: int, layers: int, rounds: int) -> Figures:
    """The figures for a prompt and a continuation of so many tokens."""
    torch.manual_seed(0)
    tokenizer, model = byte_level(), llama(width, layers, 2 * (prompt + said))
    read = torch.tensor([tokenizer(text(prompt))["input_ids"][:prompt]])
    words = tokenizer.decode(read[0, 1:])
    read = torch.tensor([tokenizer(words)["input_ids"]])
    tokens = torch.randint(262, 330, (said,)).tolist()
    ids = torch.cat([read, torch.tensor([tokens])], 1)
    x = model.get_input_embeddings()(ids[:, :-1]).detach()
    fm, first = funcattr.functionalize(model), read.shape[1] - 1
    plain = {"inputs_embeds": x}
    function: Callable[..., Any] = getattr(funcattr, method)

    def matrix() -> Tensor:
        return explain(model, tokenizer, words, continuation=tokens, method=method).attributions

    def loop() -> Tensor:
        rows = [
            function(fm, plain, (first + i, token), kwargs={"use_cache": False})["inputs_embeds"][0].sum(-1)
            for i, token in enumerate(tokens)
        ]
        return torch.stack(rows)

    def span() -> Any:
        target = funcattr.span(tokens, first)
        return function(fm, plain, target, kwargs={"use_cache": False})

    def one() -> Any:
        return function(fm, plain, (first, tokens[0]), kwargs={"use_cache": False})

    def unit() -> Any:
        leaf = x.clone().requires_grad_()
        y = model(inputs_embeds=leaf, use_cache=False).logits
        return torch.autograd.grad(y[:, -1, 0].sum(), leaf)

    expected, found = loop(), matrix()
    difference = float((found - expected).abs().max() / expected.abs().max())
    slow = turns({"matrix": matrix, "loop": loop}, rounds, "cpu")
    quick = turns({"span": span, "one": one, "unit": unit}, max(5, rounds), "cpu")
    pairs = ((slow["loop"], slow["matrix"]), (quick["span"], quick["one"]), (quick["span"], quick["unit"]))
    ratios = [statistics.median(a / b for a, b in zip(over, under, strict=True)) for over, under in pairs]
    return Figures(difference, *ratios)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.language", description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["attnlrp", "cp_lrp", "input_x_gradient"])
    parser.add_argument("--prompt", type=int, default=200, help="tokens of the prompt")
    parser.add_argument("--said", type=int, default=50, help="tokens that are explained")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    for method in options.methods:
        found = measured(method, options.prompt, options.said, options.width, options.layers, options.rounds)
        print(
            f"{method:<20} difference {found.difference:.1e}, {found.speedup:.1f} times as fast as the loop; "
            f"a span takes {found.span:.2f} of one token's call, {found.passes:.2f} plain passes",
            flush=True,
        )


if __name__ == "__main__":
    main()
