"""The plan of the house: no import circles, projects that do not know each other, annotations, files and
functions of bounded size.

The layers of packages are checked by import-linter, see ``[tool.importlinter]`` in pyproject.toml.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT_IMPORTS = {("kdnb.projects.talk2car_grounding", "kdnb.projects.coco_alignment.store")}  # all that is allowed


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted((ROOT / "kdnb").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def listing(faults):
    return "\n" + "\n".join(faults)


# --- imports ----------------------------------------------------------------------------------------------------


def imported(module, tree, files):
    """Our modules that a module imports, also in functions and for type checkers; of a package only what is named."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name in files}
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node, files)
            submodules = {f"{source}.{alias.name}" for alias in node.names}
            names |= submodules & set(files)
            if source in files and submodules - set(files):
                names.add(source)
    return names


def absolute(module, node, files):
    """'kdnb.viz' of ``from .. import``, too."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if files[module].name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def circles(graph):
    """Groups of modules that reach each other, by Tarjan's algorithm."""
    index, low, stack, groups = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            place = stack.index(node)
            groups.append(sorted(stack[place:]))
            del stack[place:]

    for node in graph:
        if node not in index:
            visit(node)
    return [group for group in groups if len(group) > 1 or group[0] in graph[group[0]]]


GRAPH = {name: imported(name, tree, FILES) for name, tree in TREES.items()}


def test_no_import_circle():
    assert not circles(GRAPH), listing(" <-> ".join(group) for group in circles(GRAPH))


def test_circles_are_detected():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d", "a"}}
    assert circles(graph) == [["b", "c"], ["d"]]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import kdnb.run", {"kdnb.run"}),
        ("from kdnb import run, errors", {"kdnb.run", "kdnb.errors"}),
        ("from kdnb.run import Run", {"kdnb.run"}),
        ("from ..run import Run", {"kdnb.run"}),
        ("from . import style", {"kdnb.viz.style"}),
        ("def f():\n    from kdnb import run", {"kdnb.run"}),
        ("if TYPE_CHECKING:\n    from kdnb.viz.style import x", {"kdnb.viz.style"}),
        ("import numpy", set()),
    ],
)
def test_imports_are_recognized(source, expected):
    names = ("kdnb", "kdnb.run", "kdnb.errors", "kdnb.viz.style", "kdnb.viz.page")
    files = {name: Path(name.rpartition(".")[2] + ".py") for name in names}
    assert imported("kdnb.viz.page", ast.parse(source), files) == expected


def test_no_project_imports_another():
    def project(module):
        return ".".join(module.split(".")[:3]) if module.startswith("kdnb.projects.") else None

    across = {
        (project(module), other)
        for module, others in GRAPH.items()
        for other in others
        if project(module) and project(other) not in (None, project(module))
    }
    assert across <= PROJECT_IMPORTS, listing(" -> ".join(pair) for pair in sorted(across - PROJECT_IMPORTS))


# --- annotations ------------------------------------------------------------------------------------------------


def public_functions(body, owner=""):
    """(name, function, whether its first argument is self or cls) of functions, and of methods of all classes."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            static = any(getattr(decorator, "id", "") == "staticmethod" for decorator in node.decorator_list)
            yield f"{owner}{node.name}", node, bool(owner) and not static


def unannotated(function, bound):
    """Names of the arguments without a type, and "return"."""
    args = function.args
    given = [*args.posonlyargs, *args.args][bound:] + args.kwonlyargs
    missing = [arg.arg for arg in [*given, args.vararg, args.kwarg] if arg is not None and arg.annotation is None]
    return missing + ["return"] * (function.returns is None and function.name != "__init__")


def test_public_functions_are_annotated():
    faults = [
        f"{module}.{name}: {', '.join(missing)}"
        for module, tree in TREES.items()
        for name, function, bound in public_functions(tree.body)
        if (missing := unannotated(function, bound))
    ]
    assert not faults, listing(faults)


def test_missing_annotations_are_detected():
    source = "class A:\n    def f(self, a: int, *b, c=1, **d): ...\n    @staticmethod\n    def g(e) -> None: ..."
    functions = public_functions(ast.parse(source).body)
    found = {name: unannotated(function, bound) for name, function, bound in functions}
    assert found == {"A.f": ["c", "b", "d", "return"], "A.g": ["e"]}


# --- sizes ------------------------------------------------------------------------------------------------------


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def too_long(paths, limit):
    return [f"{path.relative_to(ROOT)}: {lines(path)} lines" for path in paths if lines(path) > limit]


def test_files_are_short():
    long = too_long(FILES.values(), 320) + too_long((ROOT / "kdnb" / "projects").glob("*/experiment.py"), 250)
    assert not long, listing(long)


def test_functions_fit_a_screen():
    functions = {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    long = [f"{name}: {length} lines" for name, length in functions.items() if length > 60]
    assert not long, listing(long)


def test_projects_are_small():
    packages = ("kdnb/projects", "kdnb/experiment")
    assert sum(lines(path) for package in packages for path in (ROOT / package).rglob("*.py")) <= 6200


def test_the_formatter_is_rarely_overruled():
    pragmas = [line for folder in ("kdnb", "tests") for path in (ROOT / folder).rglob("*.py") for line in fmt(path)]
    assert len(pragmas) <= 40, pragmas


def fmt(path):
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if "# " + "fmt:" in line]
