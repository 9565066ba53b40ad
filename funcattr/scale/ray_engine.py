"""Shards on Ray: actors that hold the model compute one shard after the other, and each file is whole or not there."""

import io
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from ..extras import needed
from .errors import ScaleError, TooManyErrorsError
from .job import Job

RESTARTS = 3
"""How often a worker that dies is started again, and its shard with it."""


class _Worker:
    """An actor: a copy of the job, on a card of its own if the model was on one."""

    def __init__(self, packed: bytes, threads: int) -> None:
        # Sums in other numbers of threads end in other bits.
        torch.set_num_threads(threads)
        self.job: Job = torch.load(io.BytesIO(packed), map_location=_here, weights_only=False)
        self.job.question.device = _here_of(self.job.question.device)

    def compute(self, shard: int) -> int:
        """How many of a shard's examples failed."""
        with self.job.draws():
            return self.job.compute(shard, 0, lambda count: None)


def compute_on_ray(job: Job, shards: Sequence[int], workers: int | None, bar: "tqdm[Any]") -> None:
    """Compute shards on Ray; a Ray that is not running yet is started here, on this machine, and stopped again.

    Args:
        job: What is computed.
        shards: Their numbers.
        workers: How many actors; by default one for each card, or for each core where the model is on the CPU.
        bar: Is told of the examples that are done.

    Raises:
        ScaleError: If a worker dies again and again.
    """
    ray = needed("run(engine='ray')", "ray", ".[ray]")
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        _compute(ray, job, shards, workers, bar)
    finally:
        if started:
            ray.shutdown()


def _compute(ray: Any, job: Job, shards: Sequence[int], workers: int | None, bar: "tqdm[Any]") -> None:
    on_cards = job.question.device.type == "cuda"
    there = ray.cluster_resources().get("GPU" if on_cards else "CPU", 1)
    count = max(1, min(len(shards), workers or int(there)))
    share = {"num_cpus": min(1.0, there / count), "num_gpus": 0} if not on_cards else {"num_cpus": 0, "num_gpus": 1}
    actor: Any = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **share)(_Worker)
    packed = ray.put(_packed(job, ray.cloudpickle))
    actors = [actor.remote(packed, torch.get_num_threads()) for _ in range(count)]
    waiting, running, failed = list(shards)[::-1], {}, 0
    try:
        while waiting or running:
            while waiting and actors:
                one, shard = actors.pop(), waiting.pop()
                running[one.compute.remote(shard)] = one, shard
            (done,), _ = ray.wait(list(running))
            one, shard = running.pop(done)
            failed += _result(ray, done, shard)
            if job.max_errors is not None and failed > job.max_errors:
                raise TooManyErrorsError(
                    f"run(max_errors={job.max_errors}): {failed} examples have failed; the column error of the files "
                    "says why. With a larger max_errors the run goes on."
                )
            bar.update(len(job.positions(shard)))
            actors.append(one)
    finally:
        for each in (*actors, *(one for one, _ in running.values())):
            ray.kill(each)


def _result(ray: Any, done: Any, shard: int) -> int:
    try:
        return ray.get(done)
    except ray.exceptions.RayActorError as error:
        raise ScaleError(
            f"run(engine='ray'): the worker of shard {shard} died {RESTARTS + 1} times. The shards that are complete "
            f"stay. Ray says: {error}"
        ) from error
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None


def _packed(job: Job, cloudpickle: Any) -> bytes:
    """The job with its model and its data, classes and functions of the user's program too."""
    file = io.BytesIO()
    try:
        torch.save(job, file, pickle_module=cloudpickle)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(
            f"run(engine='ray'): the model, the data or an option cannot be sent to a worker: {error}. Data with open "
            "files open them in __getitem__, so that each process has its own."
        ) from error
    return file.getvalue()


def _here(storage: Any, location: str) -> Any:
    """Of a worker all cards but its own are hidden."""
    return storage.cuda(0) if location.startswith("cuda") else storage


def _here_of(device: torch.device) -> torch.device:
    return torch.device("cuda", 0) if device.type == "cuda" else device
