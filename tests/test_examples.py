"""The scripts in examples/ run as they are, and the shares that they print are what they should be."""

import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from .sweeps import long, sweep

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


class Run(NamedTuple):
    """How a script is run, and between what the shares lie that it prints."""

    options: tuple[str, ...]
    shares: dict[str, tuple[float, float]]


RUNS = {
    # Two to four of ten digits are there, so "none" is right in 70 %; a quick run learns little more.
    "train_digits.py": Run(("--quick",), {"held-out accuracy per label": (0.5, 1.0)}),
    # Chance is a twelfth. Over ten seeds AttnLRP and epsilon found 98.8 % or more, CP-LRP all, x * gradient 32 to 49 %.
    "token_relevance.py": Run(
        (),
        {
            "right answers": (0.99, 1.0),
            "attnlrp": (0.95, 1.0),
            "cp_lrp": (0.95, 1.0),
            "lrp, epsilon": (0.95, 1.0),
            "input_x_gradient": (0.15, 0.75),
        },
    ),
    # A quick run learns nothing; chance is about a tenth.
    "train_readout.py": Run(("--quick",), {"mass in the asked digit's box": (0.05, 0.8)}),
    # Over four seeds the deciding word had 20 to 30 % of the bits, another animal 14 to 19 %, another word 2 to 4 %.
    "token_information.py": Run(
        (),
        {
            "right answers": (0.99, 1.0),
            "before, most bits are an animal's": (0.9, 1.0),
            "before, share of the deciding word": (0.2, 0.4),
            "before, share of another animal": (0.1, 0.22),
            "before, share of another word": (0.0, 0.06),
            "behind, most bits are an animal's": (0.8, 1.0),
            "behind, share of the deciding word": (0.15, 0.4),
            "behind, share of another animal": (0.1, 0.22),
            "behind, share of another word": (0.0, 0.06),
        },
    ),
    # Over three seeds 23 to 25 % without the penalty, and 93 % with it.
    "right_reasons.py": Run(
        (),
        {
            "without the penalty, right on the training images": (0.98, 1.0),
            "without the penalty, right where the square lies": (0.1, 0.5),
            "without the penalty, share of the gradient on the strip": (0.15, 0.6),
            "with the penalty, right on the training images": (0.95, 1.0),
            "with the penalty, right where the square lies": (0.85, 1.0),
            "with the penalty, share of the gradient on the strip": (0.0, 0.05),
        },
    ),
    "explain_while_serving.py": Run(
        (), {"served logits that equal": (0.999, 1.0), "served map values that equal": (0.999, 1.0)}
    ),
    # Over five seeds, guided backpropagation: 28 to 29, 29 to 32, 32 to 37 and 19 to 22 %, right answers 83 to 89 and
    # 75 to 82 %; relevance: 47 to 50, 51 to 56, 56 to 62 and 36 to 42 %, right answers 90 to 97 and 70 to 73 %.
    "ensemble.py": Run(
        (),
        {
            "right answers, one network": (0.65, 0.85),
            "right answers, all together": (0.75, 0.95),
            "the square, of the image": (0.11, 0.112),
            "guided_backprop, values that equal a loop": (0.999, 1.0),
            "guided_backprop, one network": (0.24, 0.33),
            "guided_backprop, mean map": (0.26, 0.36),
            "guided_backprop, where they agree": (0.29, 0.42),
            "guided_backprop, standard deviation": (0.15, 0.26),
            "guided_backprop, right answers, the 200 images they agree on most": (0.8, 1.0),
            "guided_backprop, right answers, the other 200": (0.65, 0.85),
            "lrp, epsilon_plus, values that equal a loop": (0.999, 1.0),
            "lrp, epsilon_plus, one network": (0.43, 0.54),
            "lrp, epsilon_plus, mean map": (0.47, 0.6),
            "lrp, epsilon_plus, where they agree": (0.52, 0.66),
            "lrp, epsilon_plus, standard deviation": (0.32, 0.46),
            "lrp, epsilon_plus, right answers, the 200 images they agree on most": (0.86, 1.0),
            "lrp, epsilon_plus, right answers, the other 200": (0.6, 0.8),
        },
    ),
    # Over five seeds the gradient agreed to 55 to 60 %, smoothed 95 to 98 %, expected gradients 97 to 99 %.
    "smooth_and_integrate.py": Run(
        (),
        {
            "input x gradient": (0.4, 0.7),
            "the same, smoothed": (0.9, 1.0),
            "integrated gradients": (0.99, 1.0),
            "expected gradients": (0.95, 1.0),
            "input x gradient, sum": (0.8, 1.5),
            "smoothed, sum": (0.3, 0.8),
            "integrated, sum": (0.0, 0.005),
            "expected, sum": (0.05, 0.25),
        },
    ),
}


@cache
def printed(script: str) -> str:
    """What the script prints, run once."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # works uninstalled too
    command = [sys.executable, str(EXAMPLES / script), *RUNS[script].options]
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": paths, "TMPDIR": folder}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shares(text: str) -> dict[str, float]:
    """Name -> share, of lines such as `  attnlrp  99.5%` or `right answers: 100.0% of 500`."""
    found = re.findall(r"^ *(\S.*?):? +(\d+(?:\.\d+)?)%", text, re.MULTILINE)
    return {name: float(share) / 100 for name, share in found}


def test_every_script_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(RUNS)


# `test_demo.py` runs train_digits.py too, and looks at what it saves.
@pytest.mark.parametrize("script", sweep(RUNS, quick=["smooth_and_integrate.py"]))
def test_a_script_prints_what_it_should(script: str) -> None:
    found = shares(printed(script))
    assert found.keys() == RUNS[script].shares.keys()
    for name, (low, high) in RUNS[script].shares.items():
        assert low <= found[name] <= high, name


@long
def test_tokens_are_coloured_by_relevance() -> None:
    sentences = [line for line in printed("token_relevance.py").splitlines() if "\x1b[48;2;" in line]
    assert len(sentences) == 5
    for sentence in sentences:
        tokens = re.findall(r"\x1b\[48;2;(\d+);(\d+);(\d+)m\x1b\[30m (\w+) *\x1b\[0m", sentence)
        assert len(tokens) == 12
        full = [word for *colour, word in tokens if colour == ["255", "140", "0"]]
        animals = [word for *_, word in tokens if word in ("cat", "dog", "owl", "fox")]
        assert len(animals) == 4
        assert full == animals[:1] == [sentence.split("-> ")[1]]


def test_shares_are_read_where_they_stand() -> None:
    text = "right answers: 99.8% of 500 new sentences\n  lrp, epsilon     100.0%\n  cp_lrp  7%\n500 lines\n"
    assert shares(text) == {"right answers": 0.998, "lrp, epsilon": 1.0, "cp_lrp": 0.07}
