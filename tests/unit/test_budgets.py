"""The budgets of the code's style: sizes, rooms, imports, inheritance. Read from the source, without importing it.

A failure lists what is over. Budgets are there to make a large thing be seen, not to be gamed.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "rayconvai"

GROUND = {"errors", "_optional", "places", "rayconvai"}
PARTS = {"core", "tokenizers", "data"}
COLLECTIONS = {"asr", "nlp", "tts"}
RUN = PARTS | COLLECTIONS | {"experiment", "config"}
KNOWS: dict[str, set[str]] = {
    "rayconvai": set(),
    "errors": set(),
    "_optional": {"errors"},
    "places": {"errors", "_optional"},
    "core": GROUND,
    "experiment": GROUND | {"core"},
    "config": GROUND | {"core", "experiment"},  # experiment: for the dataclass of its own section
    "tokenizers": GROUND | {"core"},
    "data": GROUND | {"core"},
    **dict.fromkeys(COLLECTIONS, GROUND | PARTS),  # they never import one another
    "train": GROUND | RUN,
    "sweep": GROUND | RUN | {"train"},
    "analysis": GROUND | {"core", "experiment", "sweep"},
    "commands": GROUND | RUN | {"train", "sweep", "analysis"},
    "__main__": GROUND | RUN | {"train", "sweep", "analysis", "commands"},
}
"""Which rooms a room may import."""

INTERFACES = {"Typing", "Serialization", "FileIO"}
"""What NeMo's users know as bases of a module; they hold no state and are no level of a hierarchy."""


@dataclass(frozen=True)
class Module:
    """One source file."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def dotted(self) -> str:
        parts = self.path.relative_to(ROOT.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return "rayconvai" if parts == ("__init__",) else parts[0]

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def imports(self) -> Iterator[tuple[int, str, str | None]]:
        """The imports anywhere in the file: line, dotted module, and the name taken from it."""
        package = self.dotted if self.path.name == "__init__.py" else self.dotted.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                yield from ((node.lineno, source, alias.name) for alias in node.names)


Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Module(path, text, ast.parse(text)))
    assert found, f"no source under {ROOT}"
    return tuple(found)


def functions() -> Iterator[tuple[str, Function]]:
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                yield f"{module.name}:{node.lineno} {node.name}", node


def length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def percentile(values: list[int], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def over(sizes: dict[str, int], limit: float) -> list[str]:
    """The largest, those over the limit first."""
    return [f"{size:4d} {name}" for name, size in sorted(sizes.items(), key=lambda item: -item[1]) if size > limit]


def test_module_lengths() -> None:
    sizes = {module.name: module.lines for module in modules()}
    written = [size for name, size in sizes.items() if not name.endswith("__init__.py")]
    assert over(sizes, 500) == []
    assert statistics.median(written) <= 150, over(sizes, 150)
    assert percentile(written, 0.95) <= 350, over(sizes, 350)


def test_a_model_file_says_only_what_is_its_own() -> None:
    sizes = {module.name: module.lines for module in modules() if module.path.parent.name == "models"}
    assert over(sizes, 300) == []


def test_function_lengths() -> None:
    sizes = {name: length(node) for name, node in functions()}
    assert over(sizes, 90) == []
    assert percentile(list(sizes.values()), 0.95) <= 45, over(sizes, 45)


def test_argument_counts() -> None:
    def count(node: Function) -> int:
        arguments = node.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        return len([name for name in names if name not in ("self", "cls")])

    assert over({name: count(node) for name, node in functions()}, 8) == []


def test_every_function_says_what_it_returns() -> None:
    assert [name for name, node in functions() if node.returns is None] == []


def test_imports_run_downward() -> None:
    wrong = []
    for module in modules():
        assert module.room in KNOWS, f"{module.name}: a new room; say in KNOWS what it may import"
        for line, source, name in module.imports():
            parts = source.split(".")
            if parts[0] != "rayconvai":
                continue
            target = parts[1] if len(parts) > 1 else name if name in KNOWS else "rayconvai"
            if target != module.room and target not in KNOWS[module.room]:
                wrong.append(f"{module.name}:{line} {module.room} imports {target}")
    assert wrong == []


def test_rooms_form_floors() -> None:
    def reachable(room: str, seen: frozenset[str]) -> None:
        assert room not in seen, f"KNOWS has a circle through {room}"
        for below in KNOWS[room] - {room}:
            if below not in GROUND:
                reachable(below, seen | {room})

    for room in KNOWS:
        reachable(room, frozenset())


def test_ray_stays_in_its_rooms() -> None:
    users = {
        module.name
        for module in modules()
        for _, source, _ in module.imports()
        if source.split(".")[0] == "ray" and module.room != "sweep"
    }
    names = ("autoscaler", "cluster", "launch", "lean", "line", "ray_facts", "strategies", "worker")
    assert users <= {*(f"train/{name}.py" for name in names), "commands/nodes.py"}


GENERAL = ("sweep", "experiment", "train", "analysis")
"""Rooms that are the same for every collection."""
OF_A_COLLECTION = {
    *("asr", "nlp", "tts", "speech", "ctc", "transducer", "wer", "cer", "transcribe", "transcribes", "classify"),
    *("synthesize", "text_classification", "token_classification", "intent_slot", "fastpitch", "hifigan"),
}


def test_general_rooms_have_no_branch_on_a_collection() -> None:
    """Hooks and types say what differs: these rooms import no collection and ask for none, nor for a task, by name."""
    wrong = []
    for module in (module for module in modules() if module.room in GENERAL):
        for line, source, name in module.imports():
            if {*source.split(".")[:2], name} & COLLECTIONS:
                wrong.append(f"{module.name}:{line} imports {source}")
        for node in ast.walk(module.tree):
            named = _asked(node)
            if named & OF_A_COLLECTION:
                wrong.append(f"{module.name}:{getattr(node, 'lineno', 0)} asks for {sorted(named & OF_A_COLLECTION)}")
    assert wrong == []


def _asked(node: ast.AST) -> set[str]:
    """The words that a node compares with, looks up or calls: what a branch could hang on."""
    if isinstance(node, (ast.Name, ast.Attribute)):
        asked = [node.id if isinstance(node, ast.Name) else node.attr]
    elif isinstance(node, (ast.Call, ast.Compare, ast.Subscript, ast.Dict, ast.Match)):
        inner = node.args if isinstance(node, ast.Call) else list(ast.walk(node))
        asked = [part.value for part in inner if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    else:
        return set()
    return {word for text in asked for word in (text, text.rpartition(".")[2], text.removeprefix("val_"))}


def test_only_the_import_guard_catches_import_errors() -> None:
    guards = [
        f"{module.name}:{node.lineno}"
        for module in modules()
        if module.name != "_optional.py"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler) and _names(node.type) & {"ImportError", "ModuleNotFoundError"}
    ]
    assert guards == []


def test_importing_a_module_does_no_work() -> None:
    definitions = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

    def defines(node: ast.stmt, module: Module) -> bool:
        if isinstance(node, ast.If):
            return bool(_names(node.test) & {"TYPE_CHECKING", "__name__"})
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):  # completes a class of this file
            return ast.unparse(node.value.func).partition(".")[0] in {
                local.name for local in module.tree.body if isinstance(local, ast.ClassDef)
            }
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Constant)
        return isinstance(node, (*definitions, ast.Assign, ast.AnnAssign))

    loose = [
        f"{module.name}:{node.lineno}" for module in modules() for node in module.tree.body if not defines(node, module)
    ]
    assert loose == []


def test_inheritance_is_at_most_three_deep() -> None:
    classes = {f"{module.dotted}.{node.name}": (module, node) for module, node in _classes()}

    def resolve(module: Module, name: str, own: str = "") -> str | None:
        """The class that a name means in a module, through what its package hands on."""
        if (local := f"{module.dotted}.{name}") in classes and local != own:
            return local
        first, _, rest = name.partition(".")
        for _, source, taken in module.imports():
            if taken == first:
                found = f"{source}.{taken}.{rest}" if rest else f"{source}.{taken}"
                holder, last = found.rpartition(".")[::2]
                inner = next((other for other in modules() if other.dotted == holder and other is not module), None)
                return resolve(inner, last) if inner is not None else None
        return None

    def chain(key: str) -> list[str]:
        module, node = classes[key]
        if node.name in INTERFACES:
            return []
        bases = [resolve(module, _base_name(base), key) for base in node.bases]
        return [*max((chain(base) for base in bases if base), key=len, default=[]), node.name]

    chains = {key: chain(key) for key in classes}
    # The tree of element types is a fact of the domain, not a hierarchy of behaviour.
    deep = [
        f"{key}: {' > '.join(names)}" for key, names in chains.items() if len(names) > 3 and names[0] != "ElementType"
    ]
    assert deep == []
    assert max(map(len, chains.values())) > 1, "no class was found to have a parent of ours"


def _classes() -> Iterator[tuple[Module, ast.ClassDef]]:
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                yield module, node


def _base_name(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):  # Generic[T]
        return _base_name(base.value)
    return ast.unparse(base)


def _names(node: ast.expr | None) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node is not None else set()


@pytest.mark.parametrize(
    ("source", "check"),
    [
        pytest.param(
            "try:\n    import x\nexcept ImportError:\n    x = None\n",
            "test_only_the_import_guard_catches_import_errors",
            id="guard",
        ),
        pytest.param("from rayconvai.tts import voices\n", "test_imports_run_downward", id="sideways"),
        pytest.param("from ..sweep import plan\n", "test_imports_run_downward", id="relative"),
        pytest.param(
            "def f(model) -> bool:\n    return hasattr(model, 'transcribe')\n",
            "test_general_rooms_have_no_branch_on_a_collection",
            id="branch",
        ),
        pytest.param("import ray.tune\n", "test_ray_stays_in_its_rooms", id="ray"),
        pytest.param("def f(a, b, c, d, e, f, g, h, i) -> None: ...\n", "test_argument_counts", id="arguments"),
        pytest.param("def f(): ...\n", "test_every_function_says_what_it_returns", id="returns"),
        pytest.param("def f() -> None:\n" + "    x = 1\n" * 91, "test_function_lengths", id="function"),
        pytest.param("x = 1\n" * 501, "test_module_lengths", id="module"),
        pytest.param("print(1)\n", "test_importing_a_module_does_no_work", id="work"),
        pytest.param(
            "class A: ...\nclass B(A): ...\nclass C(B): ...\nclass D(C): ...\n",
            "test_inheritance_is_at_most_three_deep",
            id="depth",
        ),
    ],
)
def test_each_budget_sees_what_is_over_it(source: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / ("sweep" if "general_rooms" in check else "asr") / "planted.py"
    planted = (*modules(), Module(path, source, ast.parse(source)))
    monkeypatch.setitem(globals(), "modules", lambda: planted)
    held: Callable[[], None] = globals()[check]
    with pytest.raises(AssertionError, match="planted"):
        held()
