"""An answer and its map in one call, served without the model: `python examples/explain_while_serving.py`.

The demo's network and a relevance map of its answer are traced into one program of plain operations, for batches of any
size, and saved to a file. Another process, in which importing funcattr fails, loads and runs it. `--aot` compiles it
ahead of time as well (AOTInductor; needs a C++ compiler, and half a minute).
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import funcattr
from funcattr.metrics.datasets.digits import load_canvases, load_model

SERVER = """
import sys, time
sys.modules["funcattr"] = None
import torch
folder = sys.argv[1]
images, logits, maps = torch.load(f"{folder}/expected.pt")
program = torch.export.load(f"{folder}/explain.pt2").module()
found = [program(part) for part in images.split([1, 7, len(images) - 8])]
assert all(len(part) == 2 for part in found)
served = [torch.cat(parts) for parts in zip(*found)]
near = [torch.isclose(a, b, rtol=1e-3, atol=1e-4).float().mean() for a, b in zip(served, (logits, maps))]
print(f"served logits that equal: {near[0]:.1%}")
print(f"served map values that equal: {near[1]:.1%}")
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Export, save, serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aot", action="store_true", help="compile ahead of time, too")
    options = parser.parse_args(argv)
    fm, images = funcattr.functionalize(load_model()), load_canvases().images[:20]
    rules = funcattr.rules.epsilon_plus()

    def explain(x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the relevance of the pixels for the digits that the network sees. [N, 10], [N, 1, 64, 64]"""
        found = funcattr.attribute(fm, x, lambda logits: logits.clamp(min=0).sum(1), rules=rules)
        return found.output, found.cotangent

    program = funcattr.export(explain, images[:2], dynamic_batch=True)
    with tempfile.TemporaryDirectory() as folder:
        torch.export.save(program, Path(folder) / "explain.pt2")
        torch.save((images, *explain(images)), Path(folder) / "expected.pt")
        size = (Path(folder) / "explain.pt2").stat().st_size
        print(f"{sum(node.op == 'call_function' for node in program.graph.nodes)} operations, {size // 1024} KiB")
        command = [sys.executable, "-W", "ignore", "-c", SERVER, folder]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="")
        if options.aot:
            package: Any = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/explain_aot.pt2")
            compiled = torch._inductor.aoti_load_package(package)
            near = torch.isclose(compiled(images)[1], explain(images)[1], rtol=1e-3, atol=1e-4).float().mean()
            print(f"compiled ahead of time, map values that equal: {near:.1%}")


if __name__ == "__main__":
    main()
