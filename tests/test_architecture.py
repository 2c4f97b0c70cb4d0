"""Imports point one way: the rooms of CONTRIBUTING.md, in their order; imports inside functions and under TYPE_CHECKING count too."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import grlm_hf

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "grlm_hf"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"

ALLOWED = {("grlm_hf.modeling.checkpoint", "grlm_hf.vllm.engine", "load_checkpoint")}
"""The one import against the order, as (importer, imported module, function): `from_pretrained(backend="vllm")` loads vLLM's engine."""


class Import(NamedTuple):
    importer: str  # dotted module
    target: str  # dotted module
    name: str  # what is taken of it, "" for the module itself
    function: str  # the innermost function around it, "" at module level
    line: int

    @property
    def place(self) -> tuple[str, str, str]:
        return self.importer, self.target, self.function

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} {self.function}: {self.target} {self.name}"


Modules = dict[str, ast.Module]
"""Dotted name → syntax tree."""


@pytest.fixture(scope="module")
def package() -> Modules:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def room(module: str) -> str:
    """``grlm_hf.data.catalog`` is in the room ``data``; the package's own ``__init__``, the door to its public names, is in none."""
    return module.split(".")[1] if "." in module else ""


def rooms() -> list[str]:
    """The rooms as CONTRIBUTING.md lists them, from the ground up."""
    table = CONTRIBUTING.read_text(encoding="utf-8").split("## Rooms", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return [re.sub(r"/|\.py", "", name) for cell in cells for name in re.findall(r"`(.*?)`", cell)]


def with_function(node: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node below, and the name of the innermost function around it."""
    for child in ast.iter_child_nodes(node):
        yield child, function
        yield from with_function(child, child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function)


def imports(modules: Modules) -> list[Import]:
    """All imports of the package's own modules. A public name taken from ``grlm_hf`` itself counts as taken from its home."""
    found = []

    def add(source: str, name: str, function: str, line: int) -> None:
        if f"{source}.{name}" in modules:
            source, name = f"{source}.{name}", ""
        elif source == "grlm_hf":
            source = "grlm_hf.version" if name == "__version__" else grlm_hf._HOMES[name]
        found.append(Import(importer, source, name, function, line))

    for importer in modules.keys() - {"grlm_hf"}:
        for node, function in with_function(modules[importer]):
            if isinstance(node, ast.Import):
                found += [Import(importer, a.name, "", function, node.lineno) for a in node.names if a.name.startswith("grlm_hf.")]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{importer}:{node.lineno}: write imports in full, as grlm_hf.room.file"
                if (node.module or "").split(".")[0] == "grlm_hf":
                    for alias in node.names:
                        add(str(node.module), alias.name, function, node.lineno)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "grlm_hf":
                add("grlm_hf", node.attr, function, node.lineno)
    return sorted(found)


def against_the_order(modules: Modules) -> list[Import]:
    order = {name: rank for rank, name in enumerate(rooms())}
    return [
        one for one in imports(modules) if room(one.importer) != room(one.target) and order[room(one.target)] >= order[room(one.importer)]
    ]


def circle(modules: Modules) -> list[str]:
    """One circle of modules that import each other, [] if there is none."""
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for one in imports(modules):
        if one.place not in ALLOWED:
            graph[one.importer].add(one.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_every_module_is_in_a_listed_room_and_every_listed_room_exists(package):
    listed = rooms()
    assert len(set(listed)) == len(listed)
    assert {room(module) for module in package} - {""} == set(listed)


def test_imports_point_to_earlier_rooms(package):
    wrong = [one for one in against_the_order(package) if one.place not in ALLOWED]
    assert not wrong, "\n" + "\n".join(map(str, wrong))


def test_every_allowed_exception_is_needed(package):
    assert {one.place for one in against_the_order(package)} >= ALLOWED


def test_no_files_import_each_other_in_a_circle(package):
    assert circle(package) == []


# --- private names ------------------------------------------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_members(tree: ast.AST) -> set[str]:
    """Private methods and attributes of a module's classes: what their bodies define, and what is assigned to ``self`` or ``cls``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(one.name)
                targets = one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []
                found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in {"self", "cls"}:
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def private_reads(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Private attributes that a module reads, writes or names in ``getattr`` and the like: (of which variable, attribute, line)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield ast.unparse(node.value), node.attr, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr", "hasattr", "delattr"}:
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if is_private(str(name)):
                yield ast.unparse(node.args[0]), str(name), node.lineno


def private_reaches(modules: Modules) -> list[str]:
    """Where a room uses a private name of another: imported, an attribute of an imported module, or an attribute of an object. Such
    an attribute is another room's when a class there defines it and no class of this room does; foreign libraries' are nobody's."""
    members: dict[str, set[str]] = {}
    for module, tree in modules.items():
        members.setdefault(room(module), set()).update(private_members(tree))
    across = [one for one in imports(modules) if room(one.importer) != room(one.target)]
    found = [str(one) for one in across if is_private(one.name)]
    for module, tree in modules.items():
        others = {name: other for other, names in members.items() if other != room(module) for name in names - members[room(module)]}
        imported = {one.target.split(".")[-1] for one in across if one.importer == module and not one.name}
        for variable, name, line in private_reads(tree):
            if name in others or variable.split(".")[-1] in imported:
                found.append(f"{module}:{line}: {variable}.{name} of {others.get(name, variable)}")
    return found


def test_no_room_uses_a_private_name_of_another(package):
    reaches = private_reaches(package)
    assert not reaches, "\n" + "\n".join(reaches)


# --- that the checks find something ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "from grlm_hf.cli.app import main",
        "from grlm_hf.cli import app",
        "import grlm_hf.cli.app",
        "import grlm_hf\n\ndef f():\n    return grlm_hf.GRLMForRecommendation",
        "from grlm_hf import GRLMForRecommendation",
        "def f():\n    from grlm_hf.cli.app import main",
        "if TYPE_CHECKING:\n    from grlm_hf.cli.app import main",
        "class A:\n    async def f(self):\n        with open('a'):\n            import grlm_hf.cli.app",
    ],
)
def test_an_import_against_the_order_is_found(package, text):
    planted = {module: ast.Module([], []) for module in package} | {"grlm_hf.trie.arrays": ast.parse(text)}
    (found,) = against_the_order(planted)
    assert (found.importer, room(found.target)) in {("grlm_hf.trie.arrays", "cli"), ("grlm_hf.trie.arrays", "modeling")}
    assert circle(planted) == []
    back = {
        "grlm_hf.cli.app": ast.parse("from grlm_hf.trie import arrays"),
        "grlm_hf.modeling.recommender": ast.parse("import grlm_hf.trie.arrays"),
    }
    assert set(circle(planted | back)) == {"grlm_hf.trie.arrays", found.target}


@pytest.mark.parametrize(
    "text",
    [
        "from grlm_hf.trie.arrays import _front_code",
        "from grlm_hf.trie import arrays\narrays._front_code()",
        "def f(trie):\n    return trie._rows",
        "def f(trie):\n    trie._rows = 1",
        "def f(trie):\n    return trie._set()",
        "def f(trie):\n    return getattr(trie, '_rows', None)",
        "class Mine(Trie):\n    def f(self):\n        return self._rows",
    ],
)
def test_a_use_of_a_private_name_is_found(package, text):
    others = {module: ast.Module([], []) for module in package}
    trie = ast.parse("class Trie:\n    def _set(self):\n        self._rows = 1\ndef _front_code(): ...\n")
    assert len(private_reaches(others | {"grlm_hf.trie.arrays": trie, "grlm_hf.data.catalog": ast.parse(text)})) == 1
    assert private_reaches(others | {"grlm_hf.trie.arrays": trie, "grlm_hf.trie.splice": ast.parse(text)}) == []
    own = ast.parse(f"{text}\nclass Own:\n    def _set(self):\n        self._rows = 2\n")
    assert len(private_reaches(others | {"grlm_hf.trie.arrays": trie, "grlm_hf.data.catalog": own})) == ("_front_code" in text)
