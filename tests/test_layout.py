"""What the tree promises: imports go one way, files stay small, nothing is hooked, and nothing lies about."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "funcattr"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 320

# What a part of the package may import of the others; parts that are not listed are free.
ALLOWED = {
    "engine": {"engine"},
    "rules": {"engine", "rules"},
    "methods": {"engine", "rules", "methods", "maps"},
    "maps": set[str](),
    "metrics": set[str](),
}

each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


# --- imports ---------------------------------------------------------------------------------------------------------


def imported(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of each import from the package by `module`, a dotted name such as "funcattr.maps"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            home = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{home}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "funcattr")


def violations(source: str, module: str) -> list[str]:
    """Imports against the direction methods -> rules -> engine, and imports of another module's private parts."""
    part = module.split(".")[1]
    found = []
    for line, name in imported(source, module):
        parts = name.split(".")
        other = parts[1] if len(parts) > 1 else "the package itself"
        if part in ALLOWED and other not in ALLOWED[part]:
            found.append(f"{module}:{line}: {part} imports {other}")
        if any(p.startswith("_") for p in parts[1:]):
            found.append(f"{module}:{line}: {name} is private")
    return found


def dotted(path: Path) -> str:
    """The dotted name of a source file; a package's is that of its `__init__`, so that a level means the same."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@each_source
def test_imports_go_one_way(path: Path) -> None:
    assert violations(path.read_text(), dotted(path)) == []


def test_every_listed_part_exists() -> None:
    assert {part for part in ALLOWED if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()} == set(ALLOWED)


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        (
            "from ..methods.gradient import gradient",
            "funcattr.rules.new",
            "funcattr.rules.new:1: rules imports methods",
        ),
        ("\nfrom ..rules import relu", "funcattr.engine.new", "funcattr.engine.new:2: engine imports rules"),
        ("from .. import rules", "funcattr.engine.new", "funcattr.engine.new:1: engine imports rules"),
        ("import funcattr.methods.guided", "funcattr.engine.new", "funcattr.engine.new:1: engine imports methods"),
        ("import funcattr", "funcattr.methods.new", "funcattr.methods.new:1: methods imports the package itself"),
        ("from .metrics import pointing_game", "funcattr.maps", "funcattr.maps:1: maps imports metrics"),
        (
            "def f():\n  from ..demo.run import demo",
            "funcattr.methods.new",
            "funcattr.methods.new:2: methods imports demo",
        ),
        (
            "from .guided import _masked",
            "funcattr.methods.new",
            "funcattr.methods.new:1: funcattr.methods.guided._masked is private",
        ),
    ],
)
def test_the_import_check_catches_a_violation(source: str, module: str, expected: str) -> None:
    assert violations(source, module) == [expected]


def test_the_import_check_lets_right_imports_pass() -> None:
    source = (
        "import torch\nfrom ..engine.vjp import vjp\nfrom ..rules.relu import GUIDED\nfrom .gradient import gradient\n"
    )
    assert violations(source, "funcattr.methods.new") == []
    assert violations("from .engine.vjp import vjp\nfrom . import maps", "funcattr.__init__") == []


# --- no hooks, no autograd.Function, no flags of the user's ----------------------------------------------------------


def forbidden(source: str) -> list[str]:
    """What composes with nothing or touches what is the user's. Text in strings and comments does not count."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            hook = re.fullmatch(r"register_\w*hook\w*", node.attr)
            if hook or node.attr in ("requires_grad_", "retain_grad") or name.endswith("autograd.Function"):
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.autograd"):
            found += [f"{node.lineno}: {alias.name}" for alias in node.names if alias.name == "Function"]
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            attributes = [t for t in targets if isinstance(t, ast.Attribute)]
            found += [f"{t.lineno}: {ast.unparse(t)} =" for t in attributes if t.attr in ("requires_grad", "grad")]
    return found


@each_source
def test_nothing_is_hooked_or_flagged(path: Path) -> None:
    assert forbidden(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class F(torch.autograd.Function): pass", ["1: torch.autograd.Function"]),
        ("from torch.autograd import Function", ["1: Function"]),
        ("m.register_forward_hook(f)", ["1: m.register_forward_hook"]),
        ("\nm.register_full_backward_pre_hook(f)", ["2: m.register_full_backward_pre_hook"]),
        ("x.register_hook(f)", ["1: x.register_hook"]),
        ("x.requires_grad_()", ["1: x.requires_grad_"]),
        ("x.requires_grad = True", ["1: x.requires_grad ="]),
        ('"register_hook, autograd.Function"  # x.requires_grad_()', []),
        ("y = x.requires_grad", []),
    ],
)
def test_the_check_of_hooks_catches_them(source: str, expected: list[str]) -> None:
    assert forbidden(source) == expected


# --- sizes and names -------------------------------------------------------------------------------------------------


@each_source
def test_files_hold_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST
    assert not re.search(r"utils?|helpers?|misc|common", path.stem)


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def laid_out(readme: str) -> set[str]:
    """The names that the README's section "Layout" lists."""
    section = readme.partition("\n## Layout\n")[2].partition("\n## ")[0]
    return {name.rstrip("/") for name in re.findall(r"^(\S+) {2,}\S", section, re.MULTILINE)}


def test_the_top_level_holds_only_what_the_readme_lists() -> None:
    listed = laid_out((ROOT / "README.md").read_text())
    assert {"pyproject.toml", "funcattr", "tests", "examples", "docs", "README.md", ".ci"} <= listed
    assert {file.split("/")[0] for file in tracked()} <= listed
    assert all((ROOT / name).exists() for name in listed)


def test_the_layout_is_read_from_its_section_only() -> None:
    assert laid_out("a  b\n## Layout\n```text\nfuncattr/  the package\n.ci/   run\n```\n## Next\nc  d\n") == {
        "funcattr",
        ".ci",
    }
