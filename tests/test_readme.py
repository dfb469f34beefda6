"""What prose names exists: files, modules, functions, commands and settings of kdnb, in all documents and notebooks."""

import ast
import json
import re
from functools import lru_cache
from pathlib import Path

import pytest

import kdnb
from kdnb.evidence_files import evidence, photographs, with_photographs
from kdnb.report import EVIDENCE, as_markdown

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "data").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")),
]
PART = r"(?:\w+|<\w+>)"  # "<name>" stands for any


def prose(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return text


def faults(text):
    """What a text names that does not exist."""
    files = [name.rstrip(".") for name in re.findall(r"(?<![\w/.-])(?:kdnb|tests)/[\w./<>-]*", text)]
    names = re.findall(rf"(?<![\w/.-])kdnb(?:\.{PART})+", text)
    imports = re.findall(r"from (kdnb[\w.]*) import ([\w, ]+)", text)
    names += [f"{module}.{name.strip()}" for module, several in imports for name in several.split(",")]
    runnable = re.findall(rf"-m\s+(kdnb(?:\.{PART})+)", text)
    commands = re.findall(r"(?:`|^|&& )kdnb ([a-z]+)", text, re.M)
    targets = re.findall(r"(?:`|^)make ([a-z]+)", text, re.M)
    settings = re.findall(r"--set\s+[\"']?(\w+)=", text)
    return [
        *(name for name in files if not any(matches(name))),
        *(name for name in names if not is_defined(name)),
        *(f"-m {name}" for name in runnable if not any(matches(as_path(name) + ".py", as_path(name) + "/__main__.py"))),
        *(f"kdnb {name}" for name in commands if not (ROOT / "kdnb" / "cli" / f"{name}.py").exists()),
        *(f"make {name}" for name in targets if not re.search(rf"^{name}:", read("Makefile"), re.M)),
        *(f"--set {name}=" for name in settings if name not in known_settings()),
    ]


def matches(*names):
    return [path for name in names for path in ROOT.glob(re.sub(r"<\w+>", "*", name))]


def as_path(module):
    return module.replace(".", "/")


def is_defined(name):
    """Whether a dotted name is a module of ours, or something at the top level of one."""
    module, _, last = name.rpartition(".")
    if any(matches(as_path(name), as_path(name) + ".py")):
        return True
    if module == "kdnb":
        return hasattr(kdnb, last)  # what it gives only when somebody asks for it
    return any(last in top_level(path) for path in matches(as_path(module) + ".py", as_path(module) + "/__init__.py"))


@lru_cache
def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@lru_cache
def top_level(path):
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
    return names


@lru_cache
def known_settings():
    """The fields of all classes of settings."""
    paths = [ROOT / "kdnb" / "experiment" / "settings.py", *(ROOT / "kdnb" / "projects").glob("*/data.py")]
    classes = [
        node
        for path in paths
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    return {node.target.id for each in classes for node in each.body if isinstance(node, ast.AnnAssign)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_prose_names_exists(path):
    assert faults(prose(path)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`kdnb/engine.py` and `kdnb/projects/<name>/settings.yaml`.", []),
        ("see `kdnb/projects/voc_experiment.py`", ["kdnb/projects/voc_experiment.py"]),
        ("`kdnb.distill.losses.kd_kl(a, b)`, `kdnb.run`", []),
        ("`kdnb.distill.losses.kd_lk`", ["kdnb.distill.losses.kd_lk"]),
        ("from kdnb.datasets.voc import VOC, COV", ["kdnb.datasets.voc.COV"]),
        ("`python -m kdnb.projects.<name>`, `torchrun -m\n  kdnb.projects.voc_defeat`", []),
        ("`python -m kdnb.experiment`", ["-m kdnb.experiment"]),
        ("`kdnb run 03 && kdnb publsh 03`, `make lint`", ["kdnb publsh"]),
        ("`make lunch`", ["make lunch"]),
        ("`--set temperature=4`, `--set lights=2`", ["--set lights="]),
    ],
)
def test_what_does_not_exist_is_named(text, expected):
    assert faults(text) == expected


def test_the_table_of_photographs_is_made_from_the_published_runs():
    groups = evidence(ROOT)
    text = read("README.md")
    assert with_photographs(text, photographs(groups)) == text, "renew it: kdnb publish --evidence"
    if not groups:
        pytest.skip("data/evidence is empty: no run has been published yet")
    assert (ROOT / EVIDENCE / "README.md").read_text(encoding="utf-8") == as_markdown(groups)
