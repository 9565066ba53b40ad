"""The names of other libraries cost nothing until they are used."""

import subprocess
import sys

import pytest

from ..sweeps import sweep


@pytest.mark.parametrize("peer", sweep(["iba", "tensorwatch"], quick=["iba"]))
def test_no_package_is_imported_before_it_is_needed(peer: str) -> None:
    source = (
        "import sys, funcattr; assert not [m for m in sys.modules if m.startswith('funcattr.compat')];"
        f"import funcattr.compat.{peer}; print({{'matplotlib', 'PIL', 'skimage', 'torchvision'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
