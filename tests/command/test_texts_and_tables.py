"""`funcattr explain` on texts, pairs of texts and rows of tables."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from matplotlib.image import imread
from safetensors import safe_open
from safetensors.torch import load_file

import funcattr

from .models import explain, refused, save_text_model, write_factories, write_table

CLASSES = {0: "bad", 1: "good", 2: "so so"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"transformers:{save_text_model(tmp_path_factory.mktemp('text'), CLASSES)}"


def test_a_text_is_explained_word_by_word(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, saved = tmp_path / "words.html", tmp_path / "a.safetensors"
    text = ("--text", "the film is not bad!")
    result = explain(capsys, *text, "--model", model, "--target", "good,bad", "--out", out, "--save", saved)
    assert result.status == 0, result.err
    words = ["[CLS]", "the", "film", "is", "not", "bad", "!", "[SEP]"]
    lines = result.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("attnlrp"))
    assert [line.split()[0] for line in lines[start + 1 : start + 9]] == words
    page = out.read_text()
    assert all(f">{word}</span>" in page for word in words)
    assert "1 good" in page and "0 bad" in page
    with safe_open(saved, "pt") as file:
        assert json.loads(file.metadata()["features"]) == words
    assert load_file(saved)["attributions.attnlrp"].shape == (2, 8, 16)


def test_the_words_are_those_of_the_method_at_the_embedding(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "a.safetensors"
    file = tmp_path / "review.txt"
    file.write_text("a good dog\n")
    result = explain(capsys, file, "--model", model, "--target", "2", "--save", saved)
    assert "review.txt, 5 tokens" in result.out
    folder = model.removeprefix("transformers:")
    bert = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    ids = torch.tensor([[2, 10, 9, 11, 3]])
    site = "bert.embeddings.word_embeddings"
    expected = funcattr.attnlrp(bert, ids, 2, layer=site)
    torch.testing.assert_close(load_file(saved)["attributions.attnlrp"], expected)


def test_a_pair_and_several_methods(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bars.png"
    methods = "gradient,grad_cam,shapley_sampling,noise_tunnel:input_x_gradient"
    result = explain(
        capsys, "--text", "the film", "--text", "a dog", "--model", model, "--method", methods, "--samples",
        "shapley_sampling=2", "--samples", "noise_tunnel:input_x_gradient=2", "--layer",
        "grad_cam=bert.encoder.layer.1", "--out", out,
    )  # fmt: skip
    assert result.status == 0, result.err
    assert "7 tokens of a pair of texts" in result.out
    assert "gradient (magnitude)" in result.out
    assert imread(out).shape[0] > 4 * 200  # the bars of each method below each other


def test_a_terminal_gets_colours(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    result = explain(capsys, "--text", "not bad", "--model", model)
    assert "\x1b[48;2;" in result.out
    assert "picture:" not in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--text", " "), "expected a text, or a pair of them"),
        (("--text", "a", "--text", "a", "--text", "a"), "expected a text, or a pair of them"),
        (("--text", "a " * 20), "expected at most 12 tokens, which is what the model takes, got 22. Shorten it."),
        (("--text", "a", "--target", "great"), "no class has this name."),
        (("--text", "a", "--method", "rise"), "expected an image, for it is of places."),
        (("--text", "a", "--method", "grad_cam"), "bert.encoder.layer.1 [1, 3, 16]"),
        (("--text", "a", "--layer", "bert.pooler"), "expected a value for each of 3 tokens, got [1, 16]"),
        (("--text", "a", "--size", "3"), "--size: it has no meaning for --text."),
        (("--text", "a", "--skip", "1"), "--skip: it is of the layers of a vision transformer."),
        (("--text", "a", "--weights", "w.pth"), "has its own weights, in its folder"),
        (("none.txt",), "none.txt: expected a text in UTF-8"),
        (("photo.png",), "photo.png: expected a text for BertForSequenceClassification"),
    ],
)
def test_mistakes_with_texts_are_one_line(
    arguments: tuple[str, ...], message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *arguments, "--model", model)


def test_a_model_without_its_classifier_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_text_model(tmp_path / "text", CLASSES)
    state = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("classifier")}
    from safetensors.torch import save_file

    save_file(state, folder / "model.safetensors", {"format": "pt"})
    line = refused(capsys, "--text", "a", "--model", f"transformers:{folder}")
    assert "expected trained weights for all of BertForSequenceClassification, got none for 2 tensors" in line
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    line = refused(capsys, "--text", "a", "--model", f"transformers:{folder}")
    assert "expected a classifier of texts or images" in line
    (folder / "config.json").unlink()
    line = refused(capsys, "--text", "a", "--model", f"transformers:{folder}")
    assert "the folder lacks a file, or has a broken one." in line


def test_a_row_of_a_table_with_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, net = write_table(tmp_path / "t.csv"), f"{write_factories(tmp_path)}:table"
    out, saved = tmp_path / "bars.png", tmp_path / "a.safetensors"
    row = (table, "--model", net, "--row", 1, "--columns", "height,age,mass")
    result = explain(capsys, *row, "--method", "lrp,feature_ablation", "--out", out, "--save", saved)
    assert result.status == 0, result.err
    assert "t.csv, row 1 of 3, 3 columns" in result.out
    tensors = load_file(saved)
    torch.testing.assert_close(tensors["input"], torch.tensor([[1.7, 20.0, 60.0]]))
    assert tensors["attributions.feature_ablation"].shape == (1, 3)
    with safe_open(saved, "pt") as file:
        assert json.loads(file.metadata()["features"]) == ["height", "age", "mass"]
    assert imread(out).shape[0] > 200


@pytest.mark.parametrize(("factory", "score"), [("risk", "class 0 (output"), ("shares", ", all sum to 1)")])
def test_one_number_and_shares_are_told_as_they_are(
    factory: str, score: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, net = write_table(tmp_path / "t.csv"), f"{write_factories(tmp_path)}:{factory}"
    row = (table, "--model", net, "--row", 0, "--columns", "age,mass,height", "--method", "gradient", "--verify")
    result = explain(capsys, *row, "--out", tmp_path / "a.pdf")
    assert result.status == 0, result.err
    assert score in result.out
    assert "softmax" not in result.out
