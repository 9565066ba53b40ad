"""A method over a data set, in shards."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from ..errors import warn
from ..rules.composites import COMPOSITES, rulebook_of
from ..sampling.loops import positive
from .bound_method import described_method, read_method
from .description import described
from .errors import BrokenShardError, ScaleError, writing
from .examples import Examples
from .files import clear_leftovers
from .formats import FORMATS
from .job import Job, columns_as_json, columns_from_json, columns_of, shard_path
from .manifest import digest_of, read_manifest, refuse_another, versions, write_manifest
from .model_description import described_model
from .own import Own
from .question import Question, described_target
from .ray_engine import compute_on_ray
from .results import Results
from .results import open as open_results
from .seeds import own_draws

_DTYPES = (torch.float16, torch.float32, torch.float64)


def run(
    method: Any,
    model: Any,
    data: Any,
    out: str | Path,
    *,
    target: Any = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    shard_size: int = 1024,
    batch_size: int = 32,
    dtype: torch.dtype = torch.float32,
    files: Literal["parquet", "safetensors"] = "parquet",
    as_map: str | Own | None = None,
    score: bool = True,
    ragged: bool = False,
    ids: Sequence[int] | Sequence[str] | None = None,
    max_errors: int | None = 100,
    part: tuple[int, int] | None = None,
    engine: str | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Results:
    """Attributions of every example of a data set, in files that a run that was cut off goes on with.

    A run is a function of its arguments: data, model, method, options, target and seed. It is cut into shards of the
    data, and each is computed, written to a file beside its place, and renamed. The manifest in the folder says what
    was run. Started again, the run computes the shards that are missing; another run's folder is refused. With the same
    shards, batches and threads on the same kind of processor the files are bitwise the same, however often the run was
    cut off and on however many processes.

    Args:
        method: The name of a method of funcattr, "lrp" or "noise_tunnel:lrp"; its function; or an `Own` of a function
            `(model, x, target, **options) -> attributions`.
        model: A module, or an `Own` of a function. It runs where it is, and examples go there.
        data: A data set with a length and an item for each position: x or (x, target). x is one example, a tensor, an
            array or a mapping of inputs that go by keyword. A tensor of examples is one; so is `ImageFolder`.
        out: The folder.
        target: "top", the class with the largest output; a class or an index for all; a list of one for each example; a
            target that is made of data, such as `contrast(3, 5)`; an `Own` of a function. None: the example's own, or
            if it has none, the one number that the model gives.
        options: Keywords of the method: numbers, texts, tensors, rulebooks. What nobody can describe is an `Own`.
        seed: Of all that is drawn, by the method, the model and the data. Each batch's is a function of it and of the
            batch's place. The global generators are as before, afterwards.
        shard_size: Examples in a shard.
        batch_size: Examples that are asked about at once. Shards hold whole batches, the last of each may be smaller.
        dtype: Of the attributions in the files: float16, float32 or float64. What does not fit is an error of its
            example, never infinity or 0.
        files: "parquet" (needs pyarrow, the extra `scale`), or "safetensors", for which memory holds a shard. In
            either attributions are tensors by column, and ids, targets, scores and errors lie beside them.
        as_map: A name of `funcattr.maps`, "sum" say: maps are kept in place of attributions; or an `Own`.
        score: Whether the model's output at the target is kept, which takes one more forward pass.
        ragged: Whether the shapes differ from example to example, as those of texts do.
        ids: One for each example, distinct, all ints or all texts; by default the data's own (`data.ids`), or places.
        max_errors: How many of the examples that are computed now may fail before the run stops. None: any number.
        part: (k, n): this process takes the shards whose number modulo n is k. By default what `torchrun` says in RANK
            and WORLD_SIZE, or all.
        engine: None, this process; or "ray": workers that hold the model, on this machine or on the cluster that Ray is
            connected to, take shard after shard. Model, data and options are sent to them.
        workers: Of Ray, how many; by default one for each card, or each core if the model is on the CPU.
        progress: Whether to show a progress bar.

    Returns:
        The results, as from `open`; other processes may still be writing theirs.

    Raises:
        TypeError, ValueError: If an argument is of the wrong kind, or has a meaning that no manifest can tell.
        AnotherRunError: If the folder holds another run.
        TooManyErrorsError: If more examples than `max_errors` failed.
        WriteError: If a file cannot be written.

    Example:
        >>> import tempfile, torch
        >>> from funcattr import scale
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> folder = tempfile.mkdtemp()
        >>> found = scale.run("lrp", model, torch.ones(5, 3), folder, target="top", options={"rules": "epsilon_plus"})
        >>> len(found), found[4].attribution.shape
        (5, torch.Size([3]))
    """
    if files not in FORMATS:
        raise ValueError(f"run(files={files!r}): expected one of {', '.join(map(repr, FORMATS))}.")
    FORMATS[files].require()
    method, out, options = read_method(method), Path(out), dict(options or {})
    size, batch = positive("run", "shard_size", shard_size), positive("run", "batch_size", batch_size)
    first, step = _part(part)
    if engine not in (None, "ray"):
        raise ValueError(f"run(engine={engine!r}): expected None or 'ray'.")
    if workers is not None and positive("run", "workers", workers) and engine is None:
        raise ValueError(f"run(workers={workers}): expected engine='ray' with it. Several processes go by torchrun.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"run(seed=...): expected an int, got {type(seed).__name__}.")
    if dtype not in _DTYPES:
        raise ValueError(f"run(dtype={dtype}): expected one of {', '.join(map(str, _DTYPES))}.")
    examples = Examples(data, ids, seed)
    question = Question(method, model, target, options, as_map=as_map, score=score, count=len(examples))
    with own_draws(question.device):
        what = {
            "versions": versions(),
            "method": described_method(method),
            "model": described_model(model),
            "data": examples.described(),
            "target": described_target(target if isinstance(target, Own) else question.target),
            "options": described(options, "run(options=...)"),
            "rulebook": _rulebook(options.get("rules")),
            "seed": seed,
            "shard_size": size,
            "batch_size": batch,
            "dtype": str(dtype).removeprefix("torch."),
            "files": files,
            "as_map": described(as_map, "run(as_map=...)"),
            "score": score,
            "ragged": ragged,
        }
        manifest = read_manifest(out)
        if manifest is None:
            _refuse_strays(out)
            columns = columns_of(question, examples, dtype, ragged, batch)
            with writing(out):
                out.mkdir(parents=True, exist_ok=True)
                write_manifest(out, {"run": what, "columns": columns_as_json(columns)})
            manifest = read_manifest(out)  # another process may have been first
            assert manifest is not None
        refuse_another(out, what, manifest)
        columns = columns_from_json(manifest["columns"])
        job = Job(question, examples, out, digest_of(what), columns, files, size, batch, max_errors)
        clear_leftovers(out)
        shards = [shard for shard in range(first, job.count, step) if not _is_done(job, shard)]
        total = sum(len(job.positions(shard)) for shard in shards)
        with tqdm(total=total, disable=not progress, desc="run", unit="example", leave=False) as bar:
            if engine == "ray" and shards:
                compute_on_ray(job, shards, workers, bar)
            else:
                _compute(job, shards, bar)
        clear_leftovers(out)  # of workers that died now
    return open_results(out)


def _compute(job: Job, shards: Sequence[int], bar: "tqdm[Any]") -> None:
    failed = 0
    for shard in shards:
        failed = job.compute(shard, failed, bar.update)


def _is_done(job: Job, shard: int) -> bool:
    try:
        return job.is_done(shard)
    except BrokenShardError as error:
        warn(f"run: {error} It is computed anew.")
        return False


def _refuse_strays(out: Path) -> None:
    """Raise where there are shards whose run nobody knows."""
    if out.is_file():
        raise ScaleError(f"run(out={str(out)!r}): expected a folder, got a file.")
    names = [shard_path(out, 0, each).name.replace("000000", "*") for each in FORMATS.values()]
    strays = sorted(path for name in names for path in out.glob(name))
    if strays:
        raise ScaleError(
            f"run(out={str(out)!r}): the folder has shards ({strays[0].name}) and no manifest, so that nobody knows "
            "what was run. Give another folder."
        )


def _rulebook(rules: Any) -> str | None:
    """A rulebook by its name, for people."""
    if isinstance(rules, str) and rules in COMPOSITES:
        return repr(rulebook_of("run", rules))
    return None


def _part(part: Any) -> tuple[int, int]:
    """Which of the processes this is, and how many there are."""
    if part is None:
        first, step = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    elif isinstance(part, tuple) and len(part) == 2 and all(type(number) is int for number in part):
        first, step = part
    else:
        raise TypeError(f"run(part={part!r}): expected two ints, (0, 8) for the first of eight processes.")
    if not 0 <= first < step:
        raise ValueError(f"run(part=({first}, {step})): expected (k, n) with 0 <= k < n.")
    return first, step
