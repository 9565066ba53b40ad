"""What holds of every picture: nothing of the user's or of pyplot is touched, and no text lies on another."""

import copy
import io
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from funcattr import show

from ..sweeps import long
from .examples import EXAMPLES, Example

PICTURES = Path(__file__).parent / "pictures"

each_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
OF_TENSORS = {name: example for name, example in EXAMPLES.items() if example.tensors}
each_example_of_tensors = pytest.mark.parametrize("example", OF_TENSORS.values(), ids=OF_TENSORS)


def texts(figure: Any) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def boxes(figure: Any) -> list[tuple[str, Any]]:
    """The texts that are drawn, with their places in pixels. Tick labels out of the axes' limits are not drawn."""
    figure.canvas.draw()
    inside = figure.bbox.padded(200)
    found = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    hidden = {
        label.get_text() + str(label.get_window_extent().bounds)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not label.get_visible()
        or not axis.get_view_interval().min() <= tick.get_loc() <= axis.get_view_interval().max()
    }
    return [(text, box) for text, box in found if inside.overlaps(box) and text + str(box.bounds) not in hidden]


@each_example
def test_a_figure_comes_back_and_is_not_pyplots(example: Example) -> None:
    open_before, settings, backend = pyplot.get_fignums(), dict(mpl.rcParams), mpl.get_backend()
    figure = example.figure()
    assert isinstance(figure, Figure)
    figure.savefig(io.BytesIO())
    assert pyplot.get_fignums() == open_before and mpl.get_backend() == backend
    assert dict(mpl.rcParams) == settings


@each_example
def test_inputs_stay_as_they_are(example: Example) -> None:
    before = copy.deepcopy(example.tensors)
    example.figure()
    for name, tensor in example.tensors.items():
        assert torch.equal(tensor, before[name]), name


@each_example_of_tensors
def test_tensors_with_a_history_and_arrays_draw_alike(example: Example) -> None:
    def drawn(values: dict[str, Any]) -> np.ndarray:
        figure = example.draw(**values)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())

    plain = drawn(example.tensors)
    tracked = {name: t.clone().requires_grad_() * 1 for name, t in example.tensors.items()}
    assert np.array_equal(drawn(tracked), plain)
    assert np.array_equal(drawn({name: t.numpy() for name, t in example.tensors.items()}), plain)


@each_example
def test_texts_lie_in_the_figure_and_on_no_other(example: Example) -> None:
    figure = example.figure()
    found = boxes(figure)
    assert found
    for text, box in found:
        whole = figure.bbox.padded(1)
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, text
    for (one, first), (other, second) in combinations(found, 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), (one, other)


def test_the_check_of_texts_finds_faults() -> None:
    figure = show.overlay(torch.rand(8, 8), torch.rand(8, 8), title="here")
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.5, "two")
    found = dict(boxes(figure))
    assert found["one"].overlaps(found["two"]) and not found["one"].overlaps(found["here"])


@each_example
def test_without_matplotlib_the_extra_is_named(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^\w+: it needs matplotlib: pip install '.\[plot\]' in a clone"):
        example.figure()


@long
def test_the_package_is_imported_without_matplotlib() -> None:
    code = (
        "import sys, funcattr; assert 'matplotlib' not in sys.modules; print(funcattr.show.tokens(['a'], [1.0]).html)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "<span" in done.stdout


@each_example_of_tensors
def test_pictures_of_a_transformed_tensor_are_refused(example: Example) -> None:
    name, tensor = next(iter(example.tensors.items()))

    def inside(values: Any) -> Any:
        example.draw(**example.tensors | {name: values})
        return values

    with pytest.raises(RuntimeError, match=r"^\w+\(.*=\.\.\.\): expected values that can be looked at; inside vmap"):
        torch.func.vmap(inside)(tensor[None])


@pytest.mark.parametrize("name", ["overlay", "grid", "bars", "curves"])
def test_a_picture_is_as_stored(name: str, tmp_path: Path) -> None:
    """Stored by `python -m tests.show.test_every_picture`. The tolerance is for other versions of fonts."""
    EXAMPLES[name].figure().savefig(tmp_path / "drawn.png", dpi=60)
    drawn, stored = imread(tmp_path / "drawn.png"), imread(PICTURES / f"{name}.png")
    assert drawn.shape == stored.shape
    ink = np.abs(stored - 1).mean()
    assert ink > 0.01
    assert np.abs(drawn - stored).mean() < 0.2 * ink


def test_stored_pictures_are_small() -> None:
    sizes = [path.stat().st_size for path in PICTURES.glob("*.png")]
    assert sizes and max(sizes) < 30_000 and sum(sizes) < 150_000


if __name__ == "__main__":
    for name in ("overlay", "grid", "bars", "curves"):
        EXAMPLES[name].figure().savefig(PICTURES / f"{name}.png", dpi=60)
