"""Peak memory of a process, beside that of plain autograd on the same sharded model: `python -m tests.sharded.memory`.

This process's part of the parameters, and the most that PyTorch's allocator gave out beyond it during a call; two
processes, gloo, the CPU.
"""

import gc
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import funcattr

from .models import Layer, fsdp, parallel

WIDTH, DEPTH = 192, 6


class Deep(nn.Module):
    """Layers of attention. [N, T, WIDTH] -> [N, WIDTH]"""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(WIDTH, 32, 4 * WIDTH) for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x[:, -1]


def peak(call: Callable[[], Any]) -> int:
    """The most bytes that were allocated at once during a call, beyond those from before; of its second run."""
    call()
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call()
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    memory = sorted((e["ts"], e["args"]) for e in events if e.get("name") == "[memory]")
    totals = [args["Total Allocated"] for _, args in memory]
    return max(totals) - (totals[0] - memory[0][1]["Bytes"])


def held(model: nn.Module) -> int:
    """The bytes of this process's part of the parameters."""
    local: Any = [getattr(p, "_local_tensor", p) for p in model.parameters()]
    return sum(t.numel() * t.element_size() for t in local)


def _autograd(model: Any, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 1].sum(), x)[0]


def _rank(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for shard in (fsdp, parallel):
        for tokens in (8, 64):
            torch.manual_seed(0)
            model, x = shard(Deep().eval()), torch.randn(2, tokens, WIDTH)
            calls = {
                "autograd": partial(_autograd, model, x),
                "gradient": partial(funcattr.gradient, model, x, 1),
                "attnlrp": partial(funcattr.attnlrp, model, x, 1),
                "integrated_gradients": partial(funcattr.integrated_gradients, model, x, 1, steps=4, chunk_size=1),
            }
            found = {name: held(model) + peak(call) for name, call in calls.items()}
            if rank == 0:
                line = ", ".join(f"{name} {n / 1e6:.1f} MB ({n / found['autograd']:.2f})" for name, n in found.items())
                print(f"{shard.__name__}, {tokens} tokens: {line}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (f"{folder}/store",), nprocs=2, start_method="fork")
