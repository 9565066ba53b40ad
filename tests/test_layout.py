"""What the tree promises: imports go one way, torch's private parts stay in one file, nothing is hooked."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "funcattr"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# The concepts from the lowest to the highest: each may import those before it, and nothing after it.
ORDER = (
    *("_torch", "errors", "hints", "extras", "text_tables", "torch_state", "agreement", "copies"),
    *("drawing", "batch", "maps"),
    "attention",
    *("calls", "model", "rulebook", "rules", "tape", "attribution", "sampling", "methods", "tools"),
    *("metrics", "masks", "paths", "bottleneck", "show", "language", "scale", "__init__", "compat", "testing"),
    *("demo", "command", "truth", "__main__"),
)


# --- imports ---------------------------------------------------------------------------------------------------------


def dotted(path: Path) -> str:
    """The dotted name of a source file; a package's is that of its `__init__`, so that a level means the same."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


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


def part_of(name: str) -> str:
    """The concept that a dotted name belongs to; a public name of the package itself is of its `__init__`."""
    part = [*name.split("."), "__init__"][1]
    return part if part in ORDER else "__init__"


def violations(source: str, module: str) -> list[str]:
    """Imports against the order of the concepts, and imports of another module's private parts."""
    part = part_of(module)
    found = []
    for line, name in imported(source, module):
        other, private = part_of(name), [p for p in name.split(".")[1:] if p.startswith("_") and p != "_torch"]
        if ORDER.index(other) > ORDER.index(part):
            found.append(f"{module}:{line}: {part} imports {other}")
        if private:
            found.append(f"{module}:{line}: {name} is private")
    return found


def below_the_interface(source: str, module: str) -> list[str]:
    """Imports by a module of compat that are neither of compat nor of the public interface."""
    public = {*ORDER[ORDER.index("metrics") : ORDER.index("__init__") + 1], "rules", "maps", "errors", "extras"}
    names = [(line, name) for line, name in imported(source, module) if part_of(name) not in (*public, "compat")]
    deep = [(line, name) for line, name in imported(source, module) if part_of(name) in public and is_module(name)]
    return [f"{module}:{line}: {name} is below the public interface" for line, name in sorted({*names, *deep})]


def is_module(name: str) -> bool:
    """Whether a dotted name goes into a module inside of a concept's folder, and is no name that the folder exports."""
    parts = name.split(".")
    folder = PACKAGE / (parts[1] if len(parts) > 1 else "")
    if len(parts) < 3 or not folder.is_dir():
        return False
    exported = re.search(rf" as {parts[2]}$", (folder / "__init__.py").read_text(), re.MULTILINE)
    return len(parts) > 3 or (exported is None and (folder / f"{parts[2]}.py").exists())


def test_compat_is_thin_it_imports_only_the_public_interface() -> None:
    paths = [path for path in SOURCES if dotted(path).startswith("funcattr.compat")]
    assert paths and [v for path in paths for v in below_the_interface(path.read_text(), dotted(path))] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from funcattr.attribution.question import ask", ["funcattr.attribution.question.ask"]),
        ("from ....methods.gradient.guided import cam_of", ["funcattr.methods.gradient.guided.cam_of"]),
        ("import funcattr.sampling.draws", ["funcattr.sampling.draws"]),
        ("from funcattr.rules.shares import Share", ["funcattr.rules.shares.Share"]),
        ("import funcattr\nfrom funcattr import rules, gradient\nfrom funcattr.rules import Share", []),
        ("from funcattr.metrics import completeness\nfrom .paths import GradientShap\nfrom ... import compat", []),
    ],
)
def test_the_check_of_compat_catches_what_is_below(source: str, expected: list[str]) -> None:
    module = "funcattr.compat.captum.attr.new"
    found = [v.split(": ")[1].split(" ")[0] for v in below_the_interface(source, module)]
    assert found == expected


def test_the_package_does_not_import_compat() -> None:
    code = "import sys, funcattr; sys.exit(any(name.startswith('funcattr.compat') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_imports_go_one_way() -> None:
    assert [v for path in SOURCES for v in violations(path.read_text(), dotted(path))] == []


def test_every_concept_has_its_place_in_the_order() -> None:
    there = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in SOURCES}
    assert there == set(ORDER) and len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        ("from ..methods.paths import lines", "funcattr.rules.new", "funcattr.rules.new:1: rules imports methods"),
        ("\nfrom ..tape import walk", "funcattr.rules.new", "funcattr.rules.new:2: rules imports tape"),
        ("from .. import rules", "funcattr.calls.new", "funcattr.calls.new:1: calls imports rules"),
        ("import funcattr.methods.guided", "funcattr.tape.new", "funcattr.tape.new:1: tape imports methods"),
        ("from .. import gradient", "funcattr.methods.new", "funcattr.methods.new:1: methods imports __init__"),
        ("from .metrics import boxes", "funcattr.maps", "funcattr.maps:1: maps imports metrics"),
        ("def f():\n  from ..demo.run import demo", "funcattr.tools.new", "funcattr.tools.new:2: tools imports demo"),
        ("from .lrp import _one", "funcattr.rules.new", "funcattr.rules.new:1: funcattr.rules.lrp._one is private"),
    ],
)  # fmt: skip
def test_the_import_check_catches_a_violation(source: str, module: str, expected: str) -> None:
    assert violations(source, module) == [expected]


def test_the_import_check_lets_right_imports_pass() -> None:
    source = "import torch\nfrom ..._torch import pytree\nfrom ...rules.relu import guided\nfrom .lrp import lrp\n"
    assert violations(source, "funcattr.methods.relevance.new") == []
    assert violations("from .tape.vjp import vjp\nfrom . import maps", "funcattr.__init__") == []


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves by way of others."""
    reached = {module: set(imports) for module, imports in arrows.items()}
    for middle in reached:
        for imports in reached.values():
            if middle in imports:
                imports |= reached[middle]
    return sorted(module for module, imports in reached.items() if module in imports)


def arrows_between(sources: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Module -> the modules that it imports, for (source, dotted name) pairs."""
    pairs = list(sources)
    modules = {name for _, name in pairs}
    arrows = defaultdict[str, set[str]](set)
    for source, module in pairs:
        for _, name in imported(source, module):
            for target in (name, name.rpartition(".")[0]):
                found = target if target in modules else f"{target}.__init__"
                if found in modules:
                    arrows[module].add(found)
                    break
    return arrows


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles(arrows_between((path.read_text(), dotted(path)) for path in SOURCES)) == []


def test_the_check_of_circles_finds_one() -> None:
    a, b, c = ("from .b import f", "funcattr.a"), ("from . import c", "funcattr.b"), ("from .a import g", "funcattr.c")
    assert circles(arrows_between([a, b, c])) == ["funcattr.a", "funcattr.b", "funcattr.c"]
    assert circles(arrows_between([a, b, ("", "funcattr.c")])) == []


# --- private parts of torch ------------------------------------------------------------------------------------------

_OF_OBJECTS = ("_version", "_forward_hooks", "_forward_pre_hooks", "_orig_mod", "_schema", "_flat_weights")


def private_torch(source: str) -> list[str]:
    """Uses of private parts of torch: names under `torch.` that begin with an underscore, and attributes of tensors."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: {a.name}" for a in node.names if re.match(r"torch\b.*\._", a.name)]
        if isinstance(node, ast.ImportFrom) and re.match(r"torch\b", node.module or "") and node.level == 0:
            names = [f"{node.module}.{a.name}" for a in node.names]
            found += [f"{node.lineno}: {name}" for name in names if "._" in name]
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if re.fullmatch(r"torch(\.\w+)*\._[a-zA-Z]\w*", name) or node.attr in _OF_OBJECTS:
                found.append(f"{node.lineno}: {name}")
    return found


def test_private_parts_of_torch_are_in_one_file() -> None:
    others = [path for path in SOURCES if path != PACKAGE / "_torch.py"]
    assert [f"{dotted(path)}:{use}" for path in others for use in private_torch(path.read_text())] == []
    assert private_torch((PACKAGE / "_torch.py").read_text())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.utils._pytree as pytree", ["1: torch.utils._pytree"]),
        ("from torch._dynamo import nonstrict_trace", ["1: torch._dynamo.nonstrict_trace"]),
        ("from torch.nn.modules.batchnorm import _BatchNorm", ["1: torch.nn.modules.batchnorm._BatchNorm"]),
        ("torch._C._functorch", ["1: torch._C._functorch", "1: torch._C"]),
        ("t._version", ["1: t._version"]),
        ("import torch\nself._own = torch.relu_(x)", []),
    ],
)
def test_the_check_of_private_parts_finds_them(source: str, expected: list[str]) -> None:
    assert private_torch(source) == expected


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


HOOKED = {
    "funcattr.compat.iba.bottleneck": "the bottleneck in a user's own calls of a live model, taken off again",
    "funcattr.compat.iba.readout": "what it reads in them",
    "funcattr.compat.torchray.attribution.contexts": "hooks of tensors made there, in the user's own pass",
    "funcattr.compat.torchray.attribution.probes": "a probe is a hook of a live module, and taken off again",
}
"""Files that live in a user's own forward and backward pass, and why."""


def test_nothing_is_hooked_or_flagged() -> None:
    others = [path for path in SOURCES if dotted(path) not in HOOKED]
    assert [f"{dotted(path)}:{use}" for path in others for use in forbidden(path.read_text())] == []
    assert all(forbidden(path.read_text()) for path in SOURCES if dotted(path) in HOOKED)


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


# --- names -----------------------------------------------------------------------------------------------------------


def test_files_are_named_after_what_they_hold() -> None:
    own = [path for path in SOURCES if "compat" not in path.relative_to(PACKAGE).parts]  # there, after the peer's files
    assert [path for path in own if re.search(r"utils?|helpers?|misc|common", path.stem)] == []


def test_every_file_says_what_it_holds() -> None:
    assert [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []


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
