"""The results so far, in a file that a run which was cut off goes on from."""

import hashlib
import json
import os
import platform
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from .subject import Subject


class Results:
    """Values of each measure, for each method and network; written to a file after each method.

    A file that other code, another torch or other settings have made is begun anew: its numbers could not be compared.

    Args:
        path: The file. JSON: `{"made_by": ..., "subjects": {subject: {method: {"seconds": ..., "measures": ...}}}}`
        subjects: What will be measured.
    """

    def __init__(self, path: Path, subjects: tuple[Subject, ...]) -> None:
        self._path = path
        made_by = {
            "code": _fingerprint(),
            "torch": torch.__version__,
            "settings": {subject.name: subject.settings for subject in subjects},
        }
        known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.goes_on = known.get("made_by") == made_by
        self.found: dict[str, Any] = known if self.goes_on else {"made_by": made_by, "subjects": {}}
        self.found.setdefault("machine", machine())

    def of(self, subject: Subject) -> dict[str, Any]:
        """What is known of a network: method -> its times and values, and its facts under ""."""
        return self.found["subjects"].setdefault(subject.name, {})

    def write(self) -> None:
        """Write all to the file, whole or not at all."""
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


def _fingerprint() -> str:
    """Of the package's source text."""
    digest = hashlib.sha256()
    root = Path(str(files("funcattr")))
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]
