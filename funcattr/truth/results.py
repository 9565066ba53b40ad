"""The results so far, in a file that a run which was cut off goes on from."""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from .remembered import as_bytes
from .subject import Subject


class Results:
    """Values of each measure, for each method and network; written to a file after each method.

    What other code, another torch, another network or other questions have made is asked anew: its numbers could not be
    compared. The rest of a file stays.

    Args:
        path: The file. JSON: `{"machine": ..., "seconds": ..., "subjects": {subject: {"made_by": ..., "plain": ...,
            "ceiling": ..., "methods": {method: {"seconds": ..., "warns": ..., "measures": ...}}}}}`
        subjects: What will be measured.
    """

    def __init__(self, path: Path, subjects: tuple[Subject, ...]) -> None:
        self._path, self._since = path, time.monotonic()
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.found: dict[str, Any] = {"machine": machine(), "seconds": 0.0, "subjects": {}, **known}
        code = _digest(p.read_bytes() for p in sorted(Path(str(files("funcattr"))).rglob("*.py")))
        for subject in subjects:
            made_by = {"code": code, "torch": torch.__version__, "asked": _asked(subject)}
            before = self.found["subjects"].get(subject.name)
            if before is None or before["made_by"] != made_by:
                self.found["subjects"][subject.name] = {"made_by": made_by, "methods": {}}

    def of(self, subject: Subject) -> dict[str, Any]:
        """What is known of a network."""
        return self.found["subjects"][subject.name]

    def write(self) -> None:
        """Write all to the file, whole or not at all, and the time that it has taken until now."""
        now = time.monotonic()
        self.found["seconds"] += now - self._since
        self._since = now
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".part")
        beside.write_text(json.dumps(self.found, indent=1, allow_nan=False))
        os.replace(beside, self._path)


def machine() -> str:
    """The processor and how many threads torch uses."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {torch.get_num_threads()} threads"


def _asked(subject: Subject) -> str:
    """A network's parameters and buffers, and its questions, as one number."""
    tensors = [*subject.model.state_dict().values(), *(v for q in subject.questions for v in q if v is not None)]
    return _digest(as_bytes(tensor) for tensor in tensors)


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
