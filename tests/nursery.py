"""A process that has imported torch and forks a pytest for each line of its input: importing takes most of a mutant.

Started by `tests/mutants.py` in the folder of a copy, from which the package and the tests are imported anew each time.
"""

import json
import os
import signal
import sys
import time

import pytest
import torch._dynamo  # noqa: F401  (what the package imports of torch too; nothing of it starts a thread)


def outcome(tests: list[str], limit: float) -> int | None:
    """The exit code of pytest on some tests; None where it took longer than so many seconds."""
    child = os.fork()
    if child == 0:
        _run(tests)
    until = time.monotonic() + limit
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run(tests: list[str]) -> None:
    code = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        os.setsid()  # with all that a test starts
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        code = int(pytest.main(["-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    for line in sys.stdin:
        print(json.dumps(outcome(*json.loads(line))), flush=True)
