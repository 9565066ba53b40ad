"""What the methods cost on an accelerator: `python -m tests.benchmarks.device`, `bash tests/benchmarks/device.sh`.

VGG16, ResNet50, ViT-B, BERT-base and a Llama of a billion parameters, all with random weights, in float32 and bfloat16:
eager, inside `torch.compile(fullgraph=True)`, and as CUDA graphs (`mode="reduce-overhead"`); batches of 1 to 64, and
contexts of 1k to 32k tokens. The unit is one plain forward and backward pass of the same model and input, run the same
way; all candidates take turns, and a ratio is the median over rounds. captum and zennit, which cannot be compiled, are
measured eagerly where they are installed.

What the time did not suffice for is printed as such. `--rehearse` runs the whole on small shapes, on a CPU too.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import funcattr
from funcattr.testing.seeding import settle

from ..zoo.classic import VGG, Bottleneck, ResNet
from ..zoo.large import resnet50, vgg16, vit_b_16
from ..zoo.transformers import VisionTransformer
from .measure import RULEBOOKS, turns
from .ratios import line, peak_on_cuda
from .table import CLASS, Row, captums, zennits

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WAYS: dict[str, dict[str, Any] | None] = {"eager": None, "compiled": {}, "graphs": {"mode": "reduce-overhead"}}
"""How a function runs, and what `torch.compile` is told for it."""
Cell = dict[str, Any]
"""The figures of one candidate, or the reason why there are none."""


class Model(NamedTuple):
    """A model, what grows, and what is asked of it.

    Attributes:
        build: `(small) -> model`.
        inputs: `(size, small) -> x`, floating-point: of a text the embeddings.
        grows: What the sizes count.
        sizes, small_sizes: Of the input.
        rows: The methods, and their peers.
    """

    build: Callable[[bool], nn.Module]
    inputs: Callable[[int, bool], Tensor]
    grows: str
    sizes: tuple[int, ...]
    small_sizes: tuple[int, ...]
    rows: Callable[[nn.Module], Iterator[Row]]


class OnEmbeddings(nn.Module):
    """A model of Hugging Face on embeddings. [N, T, D] -> logits [N, classes], or those of the last token."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, embeddings: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs_embeds=embeddings, **self.options).logits
        return logits if logits.ndim == 2 else logits[:, -1]


def _vgg16(small: bool) -> nn.Module:
    return (
        settle(lambda: VGG((8, "M", 16, "M"), pooled=7, hidden=16, classes=10), dtype=torch.float32)
        if small
        else vgg16()
    )


def _resnet50(small: bool) -> nn.Module:
    return (
        settle(lambda: ResNet(Bottleneck, (1, 1, 1, 1), width=8, classes=10), dtype=torch.float32)
        if small
        else resnet50()
    )


def _vit(small: bool) -> nn.Module:
    def build() -> nn.Module:
        return VisionTransformer(size=32, patch=16, depth=1, dim=16, heads=2, mlp_dim=32, classes=10)

    return settle(build, dtype=torch.float32) if small else vit_b_16()


def _bert(small: bool) -> nn.Module:
    found: Any = import_module("transformers")
    sizes: Any = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = found.BertConfig(num_labels=8, **(sizes if small else {}))
    return OnEmbeddings(found.BertForSequenceClassification(config))


def _llama(small: bool) -> nn.Module:
    found: Any = import_module("transformers")
    sizes: Any = {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
    }
    less: Any = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = found.LlamaConfig(**{**sizes, **({**less, "num_key_value_heads": 1, "vocab_size": 64} if small else {})})
    return OnEmbeddings(found.LlamaForCausalLM(config), use_cache=False, logits_to_keep=1)


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _images(size: int, small: bool) -> Tensor:
    side = 32 if small else 224
    return _drawn(size, 3, side, side)


def _of_convolutions(model: nn.Module) -> Iterator[Row]:
    fm = funcattr.functionalize(model)
    for name in ("gradient", "guided_backprop"):
        yield Row(name, partial(_asked, getattr(funcattr, name), fm))
    for name, book in RULEBOOKS.items():
        yield Row(f"lrp {name}", lambda x, book=book: funcattr.lrp(fm, x, CLASS, rules=book, start="one"))
    yield from captums(model)
    yield from zennits(model)


def _of_attention(model: nn.Module) -> Iterator[Row]:
    fm = funcattr.functionalize(model)
    for name in ("gradient", "attnlrp", "cp_lrp"):
        yield Row(name, partial(_asked, getattr(funcattr, name), fm))


def _asked(method: Callable[..., Tensor], model: Any, x: Tensor) -> Tensor:
    return method(model, x, CLASS)


BATCHES, FEW = (1, 16, 64), (1, 2)
MODELS = {
    "vgg16": Model(_vgg16, _images, "batch", BATCHES, FEW, _of_convolutions),
    "resnet50": Model(_resnet50, _images, "batch", BATCHES, FEW, _of_convolutions),
    "vit_b_16": Model(_vit, _images, "batch", BATCHES, FEW, _of_attention),
    "bert_base": Model(
        _bert,
        lambda size, small: _drawn(size, *((8, 16) if small else (128, 768))),
        "batch",
        BATCHES,
        FEW,
        _of_attention,
    ),
    "llama_1b": Model(
        _llama,
        lambda size, small: _drawn(1, size, 16 if small else 2048) / 50,
        "tokens",
        (1024, 8192, 32768),
        (8, 16),
        _of_attention,
    ),
}


def plain(model: nn.Module, x: Tensor) -> Tensor:
    """The unit: one forward and backward pass of the model to its input."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)[0]


def measured(
    model: nn.Module, rows: Iterable[Row], x: Tensor, way: str, rounds: int, device: str, until: float
) -> dict[str, Cell]:
    """The figures of the unit and of each row, of those that run in time."""
    told = WAYS[way]
    unit = plain if told is None else partial(_marked, plain)
    runs = {"plain": partial(unit, model if told is None else torch.compile(model, **told), x)}
    for row in rows:
        if told is None:
            runs[row.name] = partial(row.run, x)
        elif row.compiles:
            runs[row.name] = partial(_marked, torch.compile(row.run, fullgraph=True, **told), x)
    cells: dict[str, Cell] = {}
    for name, run in list(runs.items()):
        reason = _reason(run, until)
        if reason:
            cells[name] = {"why": reason}
            del runs[name]
    if "plain" not in runs:
        return cells
    seconds = turns(runs, rounds, device)
    for name, values in seconds.items():
        cells[name] = line(values, seconds["plain"])
        if device.startswith("cuda") and told is None:
            cells[name]["gigabytes"] = round(peak_on_cuda(runs[name], device) / 1e9, 3)
    return cells


def _marked(run: Callable[..., Any], *given: Any) -> Any:
    """A call that may take the memory of the last one's result, as CUDA graphs do."""
    torch.compiler.cudagraph_mark_step_begin()
    return run(*given)


def _reason(run: Callable[[], Any], until: float) -> str:
    """Why a candidate has no figures, '' if it has run."""
    if time.monotonic() > until:
        return "no time"
    try:
        run()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    return ""


def table(sizes: tuple[int, ...], grows: str, columns: list[dict[str, Cell]]) -> str:
    """The figures as a table of Markdown: ratio and milliseconds, a column for each size."""
    names = list(dict.fromkeys(name for cells in columns for name in cells))
    lines = [f"| {grows} | " + " | ".join(f"{size:,}" for size in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(_shown(cells.get(name)) for cells in columns) + " |")
    return "\n".join(lines)


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if "why" in cell:
        return str(cell["why"])
    return f"{cell['ratio']:.2f} ({1e3 * cell['seconds']:.4g} ms)"


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    found = {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "device": device}
    if device.startswith("cuda"):
        card = torch.cuda.get_device_properties(device)
        found |= {"card": card.name, "gigabytes": round(card.total_memory / 1e9), "cuda": torch.version.cuda}
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure, print and save; 1 if something failed otherwise than by memory or time."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.device",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=300.0, help="what is not begun by then is left out")
    parser.add_argument("--rehearse", action="store_true", help="small shapes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(argv)
    small, until = options.rehearse, time.monotonic() + options.seconds
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 256
    results: dict[str, Any] = {}
    print(" ".join(f"{name} {value}" for name, value in machine(options.device).items()), flush=True)
    for way, dtype in ((way, dtype) for way in options.ways for dtype in options.dtypes):
        for name in options.models:
            case = MODELS[name]
            sizes = case.small_sizes if small else case.sizes
            sizes = sizes if way == "eager" else sizes[1:2]  # compiling takes most of the time
            model = case.build(small).to(options.device, DTYPES[dtype]).eval()
            columns = []
            for size in sizes:
                x = case.inputs(size, small).to(options.device, DTYPES[dtype])
                columns.append(measured(model, case.rows(model), x, way, options.rounds, options.device, until))
            title = f"{name}, {dtype}, {way}"
            results[title] = {case.grows: dict(zip(map(str, sizes), columns, strict=True))}
            print(f"\n{title}: time / unit\n\n{table(sizes, case.grows, columns)}", flush=True)
            del model
            torch._dynamo.reset()
            if options.json:  # after each, for who runs out of time
                options.json.write_text(json.dumps({**machine(options.device), "results": results}, indent=1))
    cells = [
        c for found in results.values() for columns in found.values() for s in columns.values() for c in s.values()
    ]
    return int(any(cell.get("why", "no time") not in ("no time", "out of memory") for cell in cells))


if __name__ == "__main__":
    raise SystemExit(main())
