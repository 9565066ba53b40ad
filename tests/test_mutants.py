"""The list of mutants: each fits the package as it is, and a mutant that no test notices is told from one that is."""

import ast
from pathlib import Path

import pytest

from .mutants import MUTANTS, ROOT, Mutant, changed, failing, main
from .sweeps import long

PACKAGES = {path.name for path in (ROOT / "funcattr").iterdir() if path.is_dir() and (path / "__init__.py").exists()}


def test_there_are_many_in_every_package_with_code() -> None:
    covered = {Path(mutant.file).parts[1] for mutant in MUTANTS}
    assert len(MUTANTS) >= 40 and len({(m.file, m.name) for m in MUTANTS}) == len(MUTANTS)
    assert covered >= PACKAGES


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_each_changes_one_place_and_is_python(file: str) -> None:
    source = (ROOT / file).read_text()
    for mutant in MUTANTS:
        if mutant.file == file:
            faulty = changed(source, mutant)
            assert ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(source)), mutant.name


def test_the_tests_that_they_name_exist() -> None:
    for mutant in MUTANTS:
        for test in mutant.tests:
            file, *names = test.split("[")[0].split("::")
            nodes = ast.walk(ast.parse((ROOT / file).read_text()))
            assert set(names) <= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}, test


def _project(folder: Path) -> Path:
    (folder / "funcattr").mkdir()
    (folder / "tests").mkdir()
    (folder / "pyproject.toml").write_text("")
    (folder / "funcattr" / "__init__.py").write_text("def double(x):\n    return x * 2\n")
    (folder / "tests" / "test_it.py").write_text(
        "from funcattr import double\ndef test_value():\n    assert double(3) == 6\n"
        "def test_nothing():\n    double(3)\ndef test_wrong():\n    assert double(3) == 7\n"
    )
    return folder


def _thrice(test: str) -> Mutant:
    return Mutant("thrice", "funcattr/__init__.py", "x * 2", "x * 3", (f"tests/test_it.py::{test}",))


@long
def test_one_that_lives_is_told_from_one_that_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _project(tmp_path)
    assert main([], [_thrice("test_value")], root) == 0
    assert "killed" in capsys.readouterr().out
    assert main([], [_thrice("test_nothing")], root) == 1
    assert "SURVIVED" in capsys.readouterr().out
    assert main([], [_thrice("test_wrong")], root) == 1  # which fails without the fault too, and shows nothing
    assert "tests fail without it" in capsys.readouterr().out
    assert (root / "funcattr" / "__init__.py").read_text().endswith("x * 2\n")


def test_text_that_is_not_there_once_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected once, found 0 times"):
        changed("x + 2", _thrice("test_value"))
    with pytest.raises(ValueError, match="expected once, found 2 times"):
        changed("x * 2 + x * 2", _thrice("test_value"))


def test_tests_that_cannot_be_run_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the tests cannot be run"):
        failing(_project(tmp_path), [_thrice("test_that_is_not_there")])
