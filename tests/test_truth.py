"""The comparison of methods by measures: what it asks, how it goes on, and its arithmetic."""

import inspect
import itertools
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn

from funcattr import command, masks
from funcattr.__main__ import main
from funcattr.command.methods import METHODS
from funcattr.truth import judges, run
from funcattr.truth.catalogue import NOT_OF_IMAGES, NOT_OF_TOKENS, of_tokens, of_words
from funcattr.truth.ceiling import ceiling
from funcattr.truth.digits import digits
from funcattr.truth.judges import MEASURES
from funcattr.truth.remembered import remembered
from funcattr.truth.report import correlations, in_order, mean_of, report
from funcattr.truth.results import Results
from funcattr.truth.statistics import agreement, bootstrap, chance_of_more, mean
from funcattr.truth.subject import Case, Method, Questions, Subject


class Counted(nn.Module):
    """The first class is the sum of the left half, the second of the right half, times 3."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([torch.arange(8) < 4, torch.arange(8) >= 4]).float() * 3)
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return x.sum((1, 2)) @ self.weight.T


def small(methods: tuple[Method, ...] | None = None) -> Subject:
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    squares = masks.patches(x, 2)
    boxes = torch.tensor([[0, 0, 8, 4], [0, 4, 8, 8], [0, 0, 8, 4]])
    questions = Questions(x, torch.tensor([0, 1, 0]), torch.zeros(1, 1, 1, 1), 0 * x, squares, squares, boxes)
    return Subject(
        "digits",
        "Which half?",
        Counted().eval(),
        (questions,),
        methods or (Method("random", _random, _same), Method("gradient", _right, _same, "share", 3, "output")),
        steps=4,
        filled=2,
        layers=1,
        tiles=(2,),
        radius=0.01,
    )


def _same(attributions: Tensor, x: Tensor) -> Tensor:
    return attributions.detach()


def _random(model: Any, x: Tensor, target: Tensor) -> Tensor:
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(1))


def _right(model: Any, x: Tensor, target: Tensor) -> Tensor:
    """Exact, of whatever weights the model has."""
    weight = dict(model.params)["weight"] if hasattr(model, "params") else model.weight
    return x * weight[target][:, None, None, :]


def case_of(subject: Subject, method: Method) -> Case:
    (questions,) = subject.questions
    found = method.attribute(subject.model, questions.x, questions.target)
    return Case(subject, questions, method, found, method.reduce(found, questions.x), remembered(subject.model))


def test_an_exact_method_is_best_by_each_measure_that_is_about_being_right() -> None:
    subject = small()
    chance, exact = (case_of(subject, method) for method in subject.methods)
    values: dict[str, Tensor] = {}
    for measure in MEASURES:
        found = measure.judge(exact)
        if measure.name.startswith("tiles"):
            assert found == "it is for photographs"
            continue
        assert isinstance(found, Tensor), measure.name
        assert found.shape == (3,)
        values[measure.name] = found
    by_chance: dict[str, Any] = {m.name: m.judge(chance) for m in MEASURES}
    assert values["points"].all()
    assert values["energy"].tolist() == pytest.approx([1, 1, 1])
    assert values["completeness"].abs().max() < 1e-5
    assert values["single_deletion"].min() > 0.99
    assert values["sensitivity_n"].min() > 0.99
    assert values["infidelity"].max() < 1e-6
    assert (values["area_between"] > by_chance["area_between"]).all()
    assert (values["deletion"] < by_chance["deletion"]).all()
    assert (values["insertion"] > by_chance["insertion"]).all()
    assert by_chance["completeness"] == "it promises no sum"
    assert "unit" in by_chance["infidelity"]
    assert by_chance["randomization"].tolist() == pytest.approx([1, 1, 1])  # it does not look at the network
    best = torch.tensor(ceiling(subject, exact.remembered), dtype=torch.double)
    assert torch.allclose(best, values["area_between"].double(), atol=1e-4)  # of a linear model, greedy is best


def test_the_degradation_of_the_bottleneck_paper() -> None:
    """Each tile alone, by hand: from all of the softmax that is lost to none of it."""
    subject = small()._replace(tiles=(4,), steps=4)
    (q,) = subject.questions
    case = case_of(subject, subject.methods[1])
    mean = q.x.mean((2, 3), keepdim=True).expand_as(q.x)
    tiles = masks.patches(q.x, 4)
    found = judges._tiles(case, 4)
    assert isinstance(found, Tensor)
    for n in range(3):
        sums = [float((case.places[n] * (tiles[0] == i)).sum()) for i in range(4)]
        areas = []
        for order in (sorted(range(4), key=lambda i: sums[i]), sorted(range(4), key=lambda i: -sums[i])):
            x, curve = q.x[n : n + 1].clone(), []
            for i in (None, *order):
                x = torch.where(tiles == i, mean[n : n + 1], x) if i is not None else x
                curve.append(subject.model(x).softmax(1)[0, q.target[n]].item())
            areas.append(sum((a + b) / 8 for a, b in itertools.pairwise(curve)))
        assert float(found[n]) == pytest.approx((areas[0] - areas[1]) / (curve[0] - curve[-1]), abs=1e-4)
    assert judges._tiles(case, 8) == "it is for photographs"
    other = case._replace(method=case.method._replace(name="rise"))
    assert judges._tiles(other, 4) == "not among the methods that the paper compares"


def test_a_measure_that_would_take_long_says_so() -> None:
    subject = small((Method("slow", _right, _same, passes=1000),))
    found = {m.name: m.judge(case_of(subject, subject.methods[0])) for m in MEASURES}
    assert found["max_sensitivity"] == "it would take 4000 passes a question"
    assert found["randomization"] == "it would take 1000 passes a question once more"


def test_tokens_point_as_maps_of_one_row() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    x, words = torch.randn(2, 4, 3), torch.arange(4)[None, :, None]
    truth = torch.tensor([[[False, True, False, False]], [[False, False, False, True]]])
    questions = Questions(x, torch.tensor([0, 1]), torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), words, words, truth)
    found = torch.zeros(2, 4, 3)
    found[:, 1] = 1.0

    def attribute(model: Any, x: Tensor, target: Tensor) -> Tensor:
        return found

    method = Method("second", attribute, of_words)
    subject = small((method,))._replace(model=model, questions=(questions,))
    values: dict[str, Any] = {m.name: m.judge(case_of(subject, method)) for m in MEASURES}
    assert values["points"].tolist() == [1.0, 0.0]
    assert values["energy"].tolist() == [1.0, 0.0]
    assert values["sparseness"].tolist() == pytest.approx([0.75, 0.75])  # one of four
    assert values["complexity"].tolist() == pytest.approx([0, 0])
    assert "words have not" in values["road"]


def test_a_batch_runs_once() -> None:
    model = Counted().eval()
    network, x = remembered(model), torch.rand(2, 1, 8, 8)
    first, again = network(x), network(x.clone())
    assert model.rows == 2
    assert torch.equal(first, again)
    again.zero_()
    assert torch.equal(network(x), first)
    network(x + 1)
    network(x.reshape(1, 2, 8, 8))
    assert model.rows == 5


@pytest.fixture
def only_small(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The comparison on one small subject; how often its methods are asked."""
    asked = {"random": 0, "gradient": 0}

    def counting(name: str, attribute: Any) -> Any:
        def attributing(*args: Any) -> Tensor:
            asked[name] += 1
            return attribute(*args)

        return attributing

    methods = tuple(method._replace(attribute=counting(method.name, method.attribute)) for method in small().methods)
    monkeypatch.setitem(run._MADE, "digits", lambda: small(methods))
    return asked


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, only_small: dict[str, int]) -> None:
    whole = run.truth(tmp_path / "whole", subjects=["digits"], progress=False)
    before = dict(only_small)
    cut = json.loads((tmp_path / "whole" / "truth.json").read_text())
    del cut["subjects"]["digits"]["methods"]["gradient"]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "truth.json").write_text(json.dumps(cut))
    again = run.truth(tmp_path / "cut", subjects=["digits"], progress=False)
    assert only_small["random"] == before["random"]
    assert only_small["gradient"] > before["gradient"]
    for name in ("random", "gradient"):
        one, other = (found["subjects"]["digits"]["methods"][name]["measures"] for found in (whole, again))
        assert json.dumps(one) == json.dumps(other)


def test_what_is_not_a_number_is_null_in_the_file(tmp_path: Path) -> None:
    subject = small()
    case = case_of(subject, subject.methods[0])
    values = run._judged(lambda case: torch.tensor([math.nan, 1.0]), [case, case])
    assert values == [None, 1.0, None, 1.0]
    results = Results(tmp_path / "truth.json", (subject,))
    results.of(subject)["methods"]["random"] = {"measures": {m.name: values for m in MEASURES}}
    results.write()
    assert "NaN" not in (tmp_path / "truth.json").read_text()
    known = Results(tmp_path / "truth.json", (subject,)).of(subject)
    assert mean_of(known, "random", MEASURES[0]) == 1.0


@pytest.mark.parametrize("field", ["code", "torch", "asked"])
def test_what_other_code_has_made_is_asked_anew_and_the_rest_stays(tmp_path: Path, field: str) -> None:
    path, subject = tmp_path / "truth.json", small()
    other = small()._replace(name="sentences")
    first = Results(path, (subject, other))
    for made in (subject, other):
        first.of(made)["methods"]["gradient"] = {"seconds": 1.0}
    first.write()
    assert set(Results(path, (subject,)).of(subject)["methods"]) == {"gradient"}
    known = json.loads(path.read_text())
    known["subjects"]["digits"]["made_by"][field] = "another"
    path.write_text(json.dumps(known))
    anew = Results(path, (subject,))
    assert anew.of(subject)["methods"] == {}
    assert set(anew.of(other)["methods"]) == {"gradient"}


@pytest.mark.parametrize("what", ["weights", "images", "boxes"])
def test_another_network_and_other_questions_are_other_subjects(tmp_path: Path, what: str) -> None:
    path, subject = tmp_path / "truth.json", small()
    results = Results(path, (subject,))
    results.of(subject)["methods"]["gradient"] = {}
    results.write()
    (questions,) = subject.questions
    changed = {
        "weights": subject,
        "images": subject._replace(questions=(questions._replace(x=questions.x + 1),)),
        "boxes": subject._replace(questions=(questions._replace(regions=torch.zeros(3, 4, dtype=torch.long)),)),
    }[what]
    assert Results(path, (small(),)).of(subject)["methods"] == {"gradient": {}}
    if what == "weights":
        with torch.no_grad():
            dict(changed.model.named_parameters())["weight"][0, 0] += 1
    assert Results(path, (changed,)).of(changed)["methods"] == {}


def test_tables_and_picture(tmp_path: Path, only_small: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    main(["truth", "--out", str(tmp_path), "--subjects", "digits", "--no-progress"])
    printed = capsys.readouterr().out
    assert "Which half?\n3 questions" in printed
    assert "ABPC of the order that a greedy search finds" in printed
    assert "area_between: random" in printed and "behind gradient" in printed
    assert imread(tmp_path / "digits.png").std() > 0.01
    assert "points: is the highest place in the answer?" in printed and "minutes in all" in printed
    known = json.loads((tmp_path / "truth.json").read_text())["subjects"]["digits"]
    assert in_order(small(), known) == ["gradient", "random"]
    assert report(small(), known, "here").startswith("Which half?")
    (row,) = {len(row) for row in correlations(small(), known, MEASURES)}
    assert row == len(MEASURES)


def test_a_missing_package_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from funcattr.extras import needed

    monkeypatch.setitem(run._MADE, "photos", partial(needed, "truth", "no_such_package", "no-such-package"))
    assert run.truth(tmp_path, subjects=["photos"], progress=False)["subjects"] == {}
    assert "Without photos. truth: it needs no_such_package" in capsys.readouterr().out


def test_every_method_of_the_command_line_is_asked() -> None:
    names = {method.name for method in digits(2).methods}
    asked = names | {"lrp"} if "lrp_epsilon" in names else names
    assert set(METHODS) - asked == set(NOT_OF_IMAGES)
    (questions,) = small().questions
    tokens = questions._replace(x=torch.zeros(1, 3, 4))
    names = {m.name for m in of_tokens(tokens, sigma=1.0, rest=torch.zeros(4), layer="h", samples=8)} | {"lrp"}
    assert set(METHODS) - names == set(NOT_OF_TOKENS)


def test_the_methods_of_images_answer_on_digits() -> None:
    subject = digits(2)
    (questions,) = subject.questions
    for method in subject.methods:
        if method.passes > 60:
            continue  # the demo and their own tests run them
        found = method.attribute(subject.model, questions.x, questions.target)
        places = method.reduce(found, questions.x)
        assert places.shape == (2, 1, 64, 64), method.name
        assert places.isfinite().all(), method.name


def test_an_interval_of_the_bootstrap() -> None:
    assert bootstrap([2.0, 2.0, math.nan, 2.0]) == (2.0, 2.0, 2.0)
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    found = bootstrap(values.tolist())
    error = 1.96 * values.std().item() / 20
    assert found.mean == pytest.approx(values.mean().item())
    assert found.low == pytest.approx(found.mean - error, abs=0.15 * error)
    assert found.high == pytest.approx(found.mean + error, abs=0.15 * error)
    assert all(math.isnan(value) for value in bootstrap([math.nan]))


def test_how_sure_a_difference_is() -> None:
    assert mean([1.0, math.nan, 2.0]) == 1.5 and math.isnan(mean([math.nan]))
    assert chance_of_more([2.0, 3.0], [1.0, 2.0]) == 1.0
    assert chance_of_more([1.0, 1.0], [1.0, 1.0]) == 0.5
    assert chance_of_more([1.0, math.nan], [2.0, 0.0]) == 0.0
    assert math.isnan(chance_of_more([math.nan], [1.0]))


def test_agreement_of_orders() -> None:
    assert agreement([1.0, 2.0, 3.0, math.nan], [2.0, 4.0, 9.0, 1.0]) == pytest.approx(1)
    assert agreement([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert agreement([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(1 / 3)
    assert math.isnan(agreement([1.0, 2.0], [1.0, 2.0]))


def test_the_words_of_the_command_are_those_of_the_function() -> None:
    words = inspect.signature(run.truth).parameters
    assert {"out", "subjects", "progress"} == set(words)
    assert command.__doc__
