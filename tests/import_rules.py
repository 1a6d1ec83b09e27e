"""What the source tree of a ringed package says about itself: its imports, its reactor, its size, its docstrings.

Read with ``ast``, never imported, so that a rule also sees imports inside functions. Each function takes the tree's
root and returns one sentence per breach, which is what a failing test prints.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "ccrelay"

# From the bottom up; what stands in one set are siblings. A file goes only where its ring is named here.
RINGS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"interfaces"}),
    frozenset({"data"}),
    frozenset({"core"}),
    frozenset({"providers"}),
    frozenset({"timers", "lean", "listeners", "notify"}),
    frozenset({"credentials", "upstream", "web"}),
    frozenset({"fitting"}),
    frozenset({"asking"}),
    frozenset({"relay"}),
    frozenset({"runtime"}),
    frozenset({"reloading", "handover", "logs"}),
    frozenset({"service"}),
    frozenset({"tap"}),
    frozenset({"cli"}),
)

PURE = frozenset({"errors", "interfaces", "data", "core", "providers"})
NETWORK = frozenset({"twisted", "treq"})
# Clocks, randomness, the environment, files, sockets, threads: a pure module is given what it needs of these.
IMPURE = NETWORK | frozenset(
    """
    asyncio concurrent ctypes fcntl getpass glob http io logging mmap multiprocessing os pathlib platform pwd queue
    random resource secrets select selectors shutil signal socket socketserver ssl subprocess sys tempfile
    threading time uuid
    """.split()
)
IMPURE_CALLS = frozenset({"open", "input", "print", "datetime.now", "datetime.utcnow", "date.today", "exec", "eval"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: ``module`` is absolute and dotted, ``scope`` the enclosing functions and classes, dotted."""

    path: Path
    line: int
    module: str
    scope: str
    type_only: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def sources(root: Path) -> list[Path]:
    """Every Python file of the package below ``root``, in order."""
    return sorted((root / PACKAGE).rglob("*.py"))


def module_name(root: Path, path: Path) -> str:
    """``ccrelay.core.sse`` for ``ROOT/ccrelay/core/sse.py``; a package's ``__init__`` has the package's name."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(root: Path, path: Path) -> list[Import]:
    """All imports of one file, with relative ones resolved and ``from package import module`` spelled out."""
    name = module_name(root, path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for node, scope, type_only in _walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            modules = [_deepest(root, base, alias.name) for alias in node.names]
        else:
            continue
        relative = path.relative_to(root)
        found += [Import(relative, node.lineno, module, scope, type_only) for module in dict.fromkeys(modules)]
    return found


def ring_breaches(root: Path) -> list[str]:
    """Imports that go up, or to a sibling. A sibling's name may be imported for annotations only."""
    rank = {unit: number for number, units in enumerate(RINGS) for unit in units}
    breaches = []
    for path in sources(root):
        unit = _unit(module_name(root, path))
        if unit and unit not in rank:
            breaches.append(f"{path.relative_to(root)} belongs to no ring")
            continue
        for found in imports(root, path):
            if found.module.split(".")[0] != PACKAGE:
                continue
            target = _unit(found.module)
            if target in ("", unit):
                continue
            if not unit:
                breaches.append(f"{found}, but the package root imports nothing")
            elif target not in rank:
                breaches.append(f"{found}, which belongs to no ring")
            elif rank[target] > rank[unit]:
                breaches.append(f"{found}, which lies above {unit}")
            elif rank[target] == rank[unit] and not found.type_only:
                breaches.append(f"{found}, a sibling of {unit}")
    return breaches


def purity_breaches(root: Path) -> list[str]:
    """What a pure module must be given instead of taking it: clocks, randomness, files, sockets, threads, Twisted."""
    breaches = []
    for path in sources(root):
        if _unit(module_name(root, path)) not in PURE:
            continue
        for found in imports(root, path):
            top = found.module.split(".")[0]
            if top in (NETWORK if found.type_only else IMPURE):
                breaches.append(f"{found} in a pure module")
        for node, _scope, _type_only in _walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ".".join(_dotted(node.func)[-2:]) in IMPURE_CALLS:
                breaches.append(
                    f"{path.relative_to(root)}:{node.lineno} calls {ast.unparse(node.func)} in a pure module"
                )
    return breaches


def reactor_imports(root: Path) -> list[str]:
    """Where the global reactor is imported, as ``tap.makeService``; module level has no dot after the module."""
    places = []
    for path in sources(root):
        unit = module_name(root, path).removeprefix(f"{PACKAGE}.")
        for found in imports(root, path):
            if found.module == "twisted.internet.reactor" and not found.type_only:
                places.append(f"{unit}.{found.scope}" if found.scope else unit)
    return places


def undocumented(root: Path) -> list[str]:
    """Public functions and classes of modules, without a docstring."""
    breaches = []
    for path in sources(root):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith(
                "_"
            ):
                if ast.get_docstring(node) is None:
                    breaches.append(f"{path.relative_to(root)}:{node.lineno} {node.name} has no docstring")
    return breaches


def overlong(root: Path, limit: int) -> list[str]:
    """Files of more than ``limit`` lines."""
    lengths = {path.relative_to(root): path.read_text(encoding="utf-8").count("\n") for path in sources(root)}
    return [f"{path} has {length} lines" for path, length in lengths.items() if length > limit]


def _unit(module: str) -> str:
    """The part of the package a module belongs to: ``core`` for ``ccrelay.core.sse``, "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def _deepest(root: Path, base: str, name: str) -> str:
    """``from BASE import NAME`` names a module if there is such a file, or if BASE is not ours to look into."""
    candidate = f"{base}.{name}"
    if base.split(".")[0] != PACKAGE:
        return candidate if candidate == "twisted.internet.reactor" else base
    place = root.joinpath(*candidate.split("."))
    return candidate if place.is_dir() or place.with_suffix(".py").is_file() else base


def _dotted(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Attribute):
        return [*_dotted(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


def _walk(node: ast.AST, scope: str = "", type_only: bool = False) -> Iterator[tuple[ast.AST, str, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, scope, type_only
        if isinstance(child, ast.If) and _dotted(child.test)[-1] == "TYPE_CHECKING":
            for part in child.body:
                yield part, scope, True
                yield from _walk(part, scope, True)
            for part in child.orelse:
                yield part, scope, type_only
                yield from _walk(part, scope, type_only)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _walk(child, f"{scope}.{child.name}" if scope else child.name, type_only)
        else:
            yield from _walk(child, scope, type_only)
