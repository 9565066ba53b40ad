"""The manifest of a run: what was run, as data; it refuses another run's folder."""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .errors import AnotherRunError, ScaleError
from .files import whole_file

NAME = "_manifest.json"
"""Programs that read a folder of Parquet files pass over names that begin so."""
PACKAGE = Path(__file__).resolve().parent.parent
FORMAT = 1


@cache
def versions() -> dict[str, Any]:
    """Of all that a run's numbers depend on beside its arguments."""
    code = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        code.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return {"format": FORMAT, "funcattr": code.hexdigest()[:16], "torch": torch.__version__}


def digest_of(run: dict[str, Any]) -> str:
    """What each shard says of the run that it belongs to."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or None if it has none.

    Raises:
        ScaleError: If it cannot be read.
    """
    try:
        return json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ScaleError(
            f"{folder / NAME}: expected the manifest of a run, got what cannot be read: {error}."
        ) from error


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write it, unless another process was first."""
    with whole_file(folder / NAME, replace=False) as file:
        file.write(json.dumps(manifest, indent=1, sort_keys=True).encode())


def refuse_another(folder: Path, run: dict[str, Any], there: dict[str, Any]) -> None:
    """Raise unless a folder's run is this one.

    Raises:
        AnotherRunError: With the entries that differ.
    """
    # As JSON gives them back. Their texts, for 0, 0.0 and False are equal, and the shards' digests are of the texts.
    told, known = json.loads(json.dumps(run)), there.get("run", {})
    if digest_of(told) == digest_of(known):
        return
    found = list(_differences(told, known, ""))
    more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
    raise AnotherRunError(
        f"run(out={str(folder)!r}): the folder holds another run. It differs in {'; '.join(found[:4])}{more}. Give "
        "another folder, or the call that began this one."
    )


def _differences(now: Any, there: Any, where: str) -> Iterator[str]:
    if isinstance(now, dict) and isinstance(there, dict):
        for name in sorted({*now, *there}):
            yield from _differences(now.get(name), there.get(name), f"{where}.{name}" if where else name)
    elif isinstance(now, list) and isinstance(there, list) and len(now) == len(there):
        for i, (one, other) in enumerate(zip(now, there, strict=True)):
            yield from _differences(one, other, f"{where}[{i}]")
    elif now != there or type(now) is not type(there):
        yield f"{where}: {_short(there)} there, {_short(now)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
