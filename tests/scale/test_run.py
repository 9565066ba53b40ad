"""A run gives what the method gives batch by batch, goes on where it stopped, and refuses what it cannot tell apart."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import bottleneck, rules, scale

from ..sweeps import sweep
from .runs import Broken, content, images, network

pq = pytest.importorskip("pyarrow.parquet", reason="runs write Parquet")

SIZES: dict[str, Any] = {"shard_size": 8, "batch_size": 4}


def by_hand(method: Any, x: Tensor, target: Any, size: int = 4) -> Tensor:
    """The loop that a run stands for."""
    parts = range(0, len(x), size)
    return torch.cat(
        [method(x[i : i + size], target[i : i + size] if isinstance(target, Tensor) else target) for i in parts]
    )


# --- what is computed ------------------------------------------------------------------------------------------------


def test_a_run_is_a_loop_over_batches(tmp_path: Path) -> None:
    model, x = network(), images()
    found = scale.run("lrp", model, x, tmp_path, target=2, options={"rules": "epsilon_plus"}, **SIZES)
    expected = by_hand(partial(funcattr.lrp, model, rules="epsilon_plus"), x, 2)
    assert found.ids == list(range(23)) and len(found) == 23 and found.missing == [] and found.errors == {}
    torch.testing.assert_close(found.attributions(), expected)
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor([row.score for row in found]), model(x)[:, 2])
    assert sorted(content(tmp_path)) == ["_manifest.json", *(f"shard-00000{i}.parquet" for i in range(3))]
    every = found.attributions()
    assert torch.equal(scale.open(tmp_path)[17].attribution, every[17])
    assert torch.equal(found.attributions([20, 3, 3]), every[[20, 3, 3]])


def test_targets_of_every_kind(tmp_path: Path) -> None:
    model, x = network(), images(6)
    with torch.no_grad():
        top = model(x).argmax(1)
    cases = {
        "top": ("top", top),
        "list": ([0, 1, 2, 3, 0, 1], torch.tensor([0, 1, 2, 3, 0, 1])),
        "tensor": (torch.tensor([3, 1, 2, 3, 0, 1]), torch.tensor([3, 1, 2, 3, 0, 1])),
        "tuple": ((2,), torch.full((6,), 2)),
        "negative": (-1, torch.full((6,), 3)),
    }
    for name, (target, classes) in cases.items():
        found = scale.run("gradient", model, x, tmp_path / name, target=target, **SIZES)
        expected = by_hand(partial(funcattr.gradient, model), x, classes)
        torch.testing.assert_close(found.attributions(), expected)
        assert [row.score for row in found] == pytest.approx(model(x)[range(6), classes].tolist(), rel=1e-5)
    contrast = scale.run("gradient", model, x, tmp_path / "contrast", target=funcattr.contrast(3, 1), **SIZES)
    torch.testing.assert_close(
        contrast.attributions(), by_hand(partial(funcattr.gradient, model), x, funcattr.contrast(3, 1))
    )
    labelled = [(one, int(label)) for one, label in zip(x, top, strict=True)]
    found = scale.run("gradient", model, labelled, tmp_path / "labels", **SIZES)
    assert [row.target for row in found] == top.tolist()


def test_a_target_of_one_an_example_is_given_for_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a target for each of 6 examples, got 4"):
        scale.run("gradient", network(), images(6), tmp_path, target=[0, 1, 2, 3], **SIZES)
    with pytest.raises(ValueError, match="expected one class or index per example"):
        scale.run("gradient", network(), images(6), tmp_path, target=funcattr.contrast([0, 1, 2, 3], 1), **SIZES)


class TwoInputs(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([(a * a).sum(1) * b.sum(1), b.sum(1)], 1)


def test_inputs_by_keyword_give_a_column_each(tmp_path: Path) -> None:
    a, b = torch.randn(5, 3), torch.randn(5, 2)
    data = [{"a": a[i], "b": b[i]} for i in range(5)]
    found = scale.run("gradient", TwoInputs(), data, tmp_path, target=0, ids=list("vwxyz"), **SIZES)
    torch.testing.assert_close(found["x"].attribution["a"], 2 * a[2] * b[2].sum())
    torch.testing.assert_close(found.attributions(["z"])["b"][0], (a[4] ** 2).sum().expand(2))
    assert pq.read_table(tmp_path).column_names == ["id", "target", "score", "error", "attribution.a", "attribution.b"]


def test_maps_in_place_of_attributions(tmp_path: Path) -> None:
    model, x = network(), images(6)
    found = scale.run("gradient", model, x, tmp_path, target=1, as_map="max_abs", **SIZES)
    torch.testing.assert_close(found.attributions(), funcattr.maps.max_abs(funcattr.gradient(model, x, 1)))


def test_ragged_examples_are_lists(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x**2).sum((1, 2))

    texts = [torch.randn(length, 2) for length in (3, 5, 3, 1, 4, 5)]
    found = scale.run("gradient", Sum(), texts, tmp_path / "ragged", ragged=True, **SIZES)
    for text, row in zip(texts, found, strict=True):
        torch.testing.assert_close(row.attribution, 2 * text)
    with pytest.raises(scale.ScaleError, match="the shapes differ"):
        found.attributions()
    refused = scale.run("gradient", Sum(), texts, tmp_path / "fixed", **SIZES)
    assert sorted(refused.errors) == [1, 3, 4, 5]
    assert "Shapes differ with ragged=True" in refused.errors[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_files_are_readable_without_funcattr(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = network(), Broken(images(10), unreadable=[4])
    scale.run("gradient", model, x, tmp_path, target=1, dtype=dtype, **SIZES)
    table = pq.read_table(tmp_path)  # the folder, as any program of Parquet reads it
    assert table["id"].to_pylist() == list(range(10))
    assert table["error"].to_pylist()[4] == "OSError: truncated image 4" and table["error"].null_count == 9
    assert table["attribution"][4].as_py() is None
    shape = json.loads(table.schema.field("attribution").metadata[b"shape"])
    values = np.stack([np.array(v) for i, v in enumerate(table["attribution"].to_pylist()) if i != 4]).reshape(
        -1, *shape
    )
    expected = funcattr.gradient(model, x.x, 1)[[i for i in range(10) if i != 4]]
    torch.testing.assert_close(torch.from_numpy(values).to(dtype), expected.to(dtype), atol=1e-3, rtol=1e-3)


# --- examples that fail ----------------------------------------------------------------------------------------------


def test_examples_that_fail_are_rows_and_the_others_are_as_if_they_were_well(tmp_path: Path) -> None:
    model, x = network(), images()
    well = scale.run("lrp", model, x, tmp_path / "well", target="top", **SIZES)
    data = Broken(x, unreadable=[1, 16], nan=[2, 22], infinite=[9])
    found = scale.run("lrp", model, data, tmp_path / "broken", target="top", **SIZES)
    assert {each: text.split(":")[0] for each, text in found.errors.items()} == {
        1: "OSError", 2: "ValueError", 9: "ValueError", 16: "OSError", 22: "ValueError",
    }  # fmt: skip
    assert found.ids == well.ids
    for one, other in zip(found, well, strict=True):
        if one.error is None:
            assert torch.equal(one.attribution, other.attribution) and one[:3] == other[:3]
        else:
            assert one.attribution is None


def test_a_broken_example_has_another_in_its_place(tmp_path: Path) -> None:
    """So that its batch is asked as if it was well: by a method that tells how many there were."""

    def counted(model: Any, x: Tensor, target: int) -> Tensor:
        return torch.full_like(x, len(x)) + torch.arange(len(x))[:, None, None, None] / 8

    data, own = Broken(images(8), unreadable=[1], nan=[6], odd=[4]), scale.Own(counted, "counted", "1")
    found = scale.run(own, network(), data, tmp_path, target=1, score=False, **SIZES)
    assert [None if row.error else float(row.attribution[0, 0, 0]) for row in found] == [
        *(4.0, None, 4.25, 4.375),
        *(None, 4.125, None, 4.375),
    ]


def test_an_example_of_another_shape_does_not_change_its_batch(tmp_path: Path) -> None:
    model, x = network(), images(8)
    well = scale.run("lrp", model, x, tmp_path / "well", target=0, **SIZES).attributions()
    found = scale.run("lrp", model, Broken(x, odd=[2], unreadable=[3]), tmp_path / "odd", target=0, **SIZES)
    assert sorted(found.errors) == [2, 3] and "channels" in found.errors[2]
    keep = [0, 1, 4, 5, 6, 7]
    assert torch.equal(found.attributions(keep), well[keep])


def test_an_example_that_the_method_refuses_does_not_change_its_batch(tmp_path: Path) -> None:
    model, x = network(), images(8)
    targets = [0, 1, 2, 3, 0, 9, 2, 3]  # there is no class 9
    found = scale.run("lrp", model, x, tmp_path / "refused", target=targets, **SIZES)
    assert list(found.errors) == [5]
    well = scale.run("lrp", model, x, tmp_path / "well", target=[0, 1, 2, 3, 0, 0, 2, 3], **SIZES).attributions()
    keep = [0, 1, 2, 3, 4, 6, 7]
    assert torch.equal(found.attributions(keep), well[keep])


class Explodes(nn.Module):
    """The square root, whose slope at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt().sum(1)


def test_attributions_that_are_not_finite_or_do_not_fit_are_errors(tmp_path: Path) -> None:
    x = torch.tensor([[1.0, 4.0], [0.0, 1.0], [1e-12, 1.0], [1.0, 1.0]])
    found = scale.run("gradient", Explodes(), x, tmp_path / "half", dtype=torch.float16, **SIZES)
    assert list(found.errors) == [1, 2]
    assert "NaN or infinity" in found.errors[1] and "dtype=torch.float32" in found.errors[2]
    wide = scale.run("gradient", Explodes(), x, tmp_path / "wide", **SIZES)
    assert list(wide.errors) == [1]
    with pytest.raises(ArithmeticError, match=r"the largest attribution is 5e-11, and float16 holds 6\.1e-05"):
        scale.run("gradient", Explodes(), x * 1e20, tmp_path / "small", dtype=torch.float16, **SIZES)


def test_a_limit_stops_the_run_and_a_larger_one_lets_it_go_on(tmp_path: Path) -> None:
    data = Broken(images(), unreadable=[9, 10, 12])
    with pytest.raises(
        scale.TooManyErrorsError, match=r"3 examples have failed\. The last, 12: OSError: truncated image 12"
    ):
        scale.run("gradient", network(), data, tmp_path, target=1, max_errors=2, **SIZES)
    left = content(tmp_path)
    assert sorted(left) == ["_manifest.json", "shard-000000.parquet"]
    found = scale.run("gradient", network(), data, tmp_path, target=1, max_errors=3, **SIZES)
    assert list(found.errors) == [9, 10, 12]
    assert left.items() <= content(tmp_path).items()


def test_an_error_of_the_machine_stops_the_run_and_blames_no_example(tmp_path: Path) -> None:
    def hungry(model: Any, x: Tensor, target: int) -> Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("no memory for so many")
        return x

    with pytest.raises(torch.OutOfMemoryError, match="no memory for so many"):
        scale.run(scale.Own(hungry, "hungry", "1"), network(), images(), tmp_path, target=1, **SIZES)
    assert sorted(content(tmp_path)) == ["_manifest.json"]


def test_a_method_that_refuses_the_model_stops_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(funcattr.UnknownSiteError, match="no such site 'nowhere'") as caught:
        scale.run("grad_cam", network(), images(), tmp_path / "out", target=1, options={"layer": "nowhere"}, **SIZES)
    assert caught.value.__notes__ == ["run: none of the first 4 examples could be explained."]
    assert not (tmp_path / "out").exists()


# --- draws -----------------------------------------------------------------------------------------------------------

DRAWN: dict[str, dict[str, Any]] = {
    "noise_tunnel:lrp": {"samples": 2, "sigma": 0.2, "rules": "epsilon_plus"},
    "iba": {"steps": 3},
    "kernel_shap": {"samples": 12, "feature_mask": funcattr.masks.patches(images(1), 4)},
    "noise_tunnel:gradient": {"samples": 3, "sigma": 0.2},
    "expected_gradients": {"baseline": funcattr.distribution(images(5)), "samples": 4},
    "rise": {"samples": 10, "cells": 3},
    "shapley_sampling": {"samples": 3, "feature_mask": funcattr.masks.patches(images(1), 4)},
    "lime": {"samples": 12, "feature_mask": funcattr.masks.patches(images(1), 4)},
}


@pytest.mark.parametrize("method", sweep(DRAWN, quick=["noise_tunnel:gradient", "shapley_sampling"]))
def test_draws_do_not_depend_on_workers_or_on_what_was_there(method: str, tmp_path: Path) -> None:
    options = DRAWN[method]
    if method == "iba":
        options = {**options, "statistics": bottleneck.feature_statistics(network(), images(1000), layer="1")}
    asked = partial(scale.run, method, network(), images(), target=1, options=options, seed=7, **SIZES)
    whole = content(asked(tmp_path / "whole").folder)
    for workers in (3, 8):
        out = tmp_path / str(workers)
        for rank in reversed(range(workers)):
            asked(out, part=(rank, workers))
        assert content(out) == whole
    (tmp_path / "3" / "shard-000001.parquet").unlink()
    assert content(asked(tmp_path / "3").folder) == whole
    other = asked(tmp_path / "other", seed=8)
    assert not torch.equal(other.attributions(), scale.open(tmp_path / "whole").attributions())


def test_draws_of_models_and_data_are_the_runs_too_and_the_users_are_untouched(tmp_path: Path) -> None:
    class Noisy:
        """Data that are augmented by each of the global generators."""

        def __len__(self) -> int:
            return 11

        def __getitem__(self, index: int) -> Tensor:
            return images(11)[index] + torch.randn(3, 8, 8) * 0.1 + random.random() + float(np.random.rand())

    def drawn(model: Any, x: Tensor, target: Any) -> Tensor:
        return torch.randn_like(x) + random.random() + float(np.random.rand())

    model = network()
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    asked = partial(scale.run, scale.Own(drawn, "noise", "1"), model, Noisy(), target=1, shard_size=4, batch_size=2)
    first = content(asked(tmp_path / "first").folder)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), str(np.random.get_state()))
    torch.manual_seed(99)
    for rank in (1, 0):
        asked(tmp_path / "second", part=(rank, 2))
    assert content(tmp_path / "second") == first
    rows = scale.open(tmp_path / "second").attributions().flatten(1)
    assert not torch.equal(rows[0], rows[2])


def test_draws_do_not_depend_on_whether_scores_are_kept(tmp_path: Path) -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + torch.randn_like(x)).sum((1, 2, 3))

    def drawn(model: Any, x: Tensor, target: Any) -> Tensor:
        return torch.randn_like(x)

    asked = partial(scale.run, scale.Own(drawn, "noise", "1"), Drawing(), images(6), **SIZES)
    with_scores, without = asked(tmp_path / "with"), asked(tmp_path / "without", score=False)
    assert torch.equal(with_scores.attributions(), without.attributions())
    assert without[0].score is None and with_scores[0].score != with_scores[4].score


def test_ranks_are_those_of_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    found = scale.run("gradient", network(), images(), tmp_path, target=1, **SIZES)
    assert found.missing == [0, 2] and found.ids == list(range(8, 16))
    with pytest.raises(ValueError, match=r"run\(part=\(2, 2\)\): expected \(k, n\) with 0 <= k < n"):
        scale.run("gradient", network(), images(), tmp_path, target=1, part=(2, 2), **SIZES)
    with pytest.raises(TypeError, match=r"expected two ints"):
        scale.run("gradient", network(), images(), tmp_path, target=1, part=2, **SIZES)  # pyright: ignore


# --- another run's folder --------------------------------------------------------------------------------------------


def with_other_weight() -> nn.Module:
    model: Any = network()
    with torch.no_grad():
        model[5].bias[3] += 1e-6
    return model


class ChangedCode(nn.Sequential):
    pass


OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "gradient", "options": {}}, "method"),
    "option": ({"options": {"rules": "epsilon_everywhere"}}, "options.rules"),
    "rulebook": ({"options": {"rules": rules.epsilon_plus(eps=1e-5)}}, "options.rules"),
    "weight": ({"model": with_other_weight()}, "model.tensors"),
    "code": ({"model": ChangedCode(*network().children()).eval()}, "model.class"),
    "mode": ({"model": network().train()}, "model.structure"),
    "target": ({"target": 2}, "target"),
    "seed": ({"seed": 1}, "seed"),
    "batch_size": ({"batch_size": 2}, "batch_size"),
    "dtype": ({"dtype": torch.float16}, "dtype"),
    "data": ({"data": images() * 1.5}, "data.examples"),
    "ids": ({"ids": list(range(1, 24))}, "data.ids"),
    "fewer": ({"data": images(22)}, "data.count"),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_runs_folder_is_refused_and_stays_as_it_is(name: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "method": "lrp", "model": network(), "data": images(), "target": 1, "options": {"rules": "epsilon_plus"},
    } | SIZES  # fmt: skip
    scale.run(out=tmp_path, **asked)
    before = content(tmp_path)
    changes, where = OTHER[name]
    with pytest.raises(scale.AnotherRunError, match=rf"the folder holds another run\. It differs in .*{where}"):
        scale.run(out=tmp_path, **(asked | changes))
    assert content(tmp_path) == before
    scale.run(out=tmp_path, **asked)
    assert content(tmp_path) == before


def test_another_type_of_a_number_is_another_run(tmp_path: Path) -> None:
    """0 is 0.0, but their shards have other digests: each of both took the other's for broken."""
    run = partial(scale.run, "integrated_gradients", network(), images(), tmp_path, target=1, **SIZES)
    run(options={"baseline": 0.0})
    with pytest.raises(scale.AnotherRunError, match=r"It differs in options\.baseline: 0\.0 there, 0 here\. Give"):
        run(options={"baseline": 0})
    assert run(options={"baseline": 0.0}).missing == []


def test_shards_without_a_manifest_or_of_another_run_are_refused(tmp_path: Path) -> None:
    asked = partial(scale.run, "gradient", network(), images(), **SIZES)
    asked(tmp_path / "a", target=1)
    asked(tmp_path / "b", target=2)
    strange = (tmp_path / "b" / "shard-000001.parquet").read_bytes()
    (tmp_path / "a" / "shard-000001.parquet").write_bytes(strange)
    with pytest.raises(scale.AnotherRunError, match=r"shard-000001\.parquet is of another run"):
        asked(tmp_path / "a", target=1)
    (tmp_path / "a" / "_manifest.json").unlink()
    with pytest.raises(scale.ScaleError, match="no manifest"):
        asked(tmp_path / "a", target=1)
    with pytest.raises(scale.ScaleError, match="expected the folder of a run"):
        scale.open(tmp_path / "a")


OPAQUE: dict[str, dict[str, Any]] = {
    "lambda": {"method": lambda model, x, target: x},
    "partial": {"method": partial(funcattr.lrp, rules="epsilon_plus")},
    "target": {"target": lambda output: output[:, 1]},
    "model": {"model": lambda x: x.flatten(1)},
    "rule": {"options": {"rules": {"relu": lambda call, cotangent: cotangent}}},
    "option": {"options": {"layer": nn.ReLU()}},
    "map": {"as_map": scale.Own},
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_a_manifest_cannot_tell_is_refused_with_the_way_out(name: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"method": "lrp", "model": network(), "data": images(), "target": 1}
    with pytest.raises((TypeError, ValueError), match=r"scale\.Own|or an Own"):
        scale.run(out=tmp_path / "out", **(asked | OPAQUE[name]))
    assert not (tmp_path / "out").exists()


def test_values_of_ones_own_go_by_name_and_version(tmp_path: Path) -> None:
    def twice(version: str, factor: float) -> scale.Results:
        def fn(model: Any, x: Tensor, target: int, *, shift: float) -> Tensor:
            return x * factor + shift

        shift = scale.Own(1.0, "shift", "1")
        return scale.run(
            scale.Own(fn, "twice", version), network(), images(), tmp_path, target=1, options={"shift": shift}, **SIZES
        )

    torch.testing.assert_close(twice("1", 2.0).attributions(), images() * 2 + 1)
    assert twice("1", 3.0).missing == []  # the same by its name and version
    with pytest.raises(scale.AnotherRunError, match=r'method\.version: "1" there, "2" here'):
        twice("2", 3.0)


def test_attributions_of_another_kind_are_refused(tmp_path: Path) -> None:
    def ranks(model: Any, x: Tensor, target: int) -> Tensor:
        return x.flatten(1).argsort(1)

    with pytest.raises(TypeError, match=r"^run: expected floating-point attributions, got torch\.int64 \(attribution"):
        scale.run(scale.Own(ranks, "ranks", "1"), network(), images(3), tmp_path / "out", target=1)
    assert not (tmp_path / "out").exists()


def test_wrong_arguments(tmp_path: Path) -> None:
    asked = partial(scale.run, model=network(), out=tmp_path / "out", target=1)
    x = images(4)
    with pytest.raises(ValueError, match=r"no such method\. Closest: 'lrp'"):
        asked("lpr", data=x)
    with pytest.raises(TypeError, match=r"lrp has no such option\. Closest: 'rules'"):
        asked("lrp", data=x, options={"rule": "epsilon_plus"})
    with pytest.raises(TypeError, match="every draw of a run is a function of its seed"):
        asked("rise", data=x, options={"generator": 3})
    with pytest.raises(TypeError, match="expected a data set, got a path"):
        asked("lrp", data=str(tmp_path))
    with pytest.raises(TypeError, match="Of a DataLoader give the data set"):
        asked("lrp", data=torch.utils.data.DataLoader([1, 2]))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"expected distinct ids, got 'a' at 0 and at 2"):
        asked("lrp", data=x, ids=["a", "b", "a", "c"])
    with pytest.raises(TypeError, match="all of one kind, got int, str"):
        asked("lrp", data=x, ids=["a", 1, "b", "c"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="expected one for each of 4 examples, got 3"):
        asked("lrp", data=x, ids=[1, 2, 3])
    with pytest.raises(ValueError, match="expected at least one example"):
        asked("lrp", data=x[:0])
    with pytest.raises(KeyError, match="no example has this id"):
        asked("gradient", data=x)[9]
