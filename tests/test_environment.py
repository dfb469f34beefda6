"""What a user touches before any of our Python runs: the dependency lists and the Makefile."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def listed(text, name):
    block = re.search(rf"^{name} = \[\n(.*?)^\]", text, re.S | re.M)[1]
    return re.findall(r'"([^"]+)"', block)


def declared():
    return listed((ROOT / "pyproject.toml").read_text(), "dependencies")


def as_pairs(requirements):
    return {(r.name.lower().replace("_", "-"), str(r.specifier)) for r in map(Requirement, requirements)}


def test_conda_and_pip_install_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    packages = environment["dependencies"]
    assert environment["channels"] == ["conda-forge"] and {"python>=3.10", "pip"} <= set(map(str, packages[:-1]))
    pip = packages[-1]["pip"]
    assert pip[-1] == "-e ." and as_pairs(pip[:-1]) == as_pairs(declared())


def test_dependencies_have_lower_bounds_and_no_pins():
    for requirement in map(Requirement, declared()):
        assert [specifier.operator for specifier in requirement.specifier] == [">="], requirement


def test_every_import_is_declared():
    """Third-party packages imported anywhere in kdnb must be in the list, not merely installed by luck."""
    own_name = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "open_clip": "open-clip-torch"}
    allowed = {name for name, _ in as_pairs(declared())} | {"transformers", "diffusers", "dask", "distributed", "ray"}
    allowed |= {"onnx", "onnxruntime"}  # of the extra "export"
    through_others = {"IPython", "traitlets", "jupyter_client", "jupyter_core"}  # jupyterlab and ipywidgets bring them
    known = allowed | through_others | sys.stdlib_module_names | {"kdnb"}
    for path in (ROOT / "kdnb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and node.level == 0
                else []
            )
            for name in (module.partition(".")[0] for module in modules):
                assert name in known or own_name.get(name) in known, f"{path} imports {name}"


# --- the Makefile, with a fake Python, so that nothing is installed ---------------------------------------------

FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> calls
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin
    for tool in python kdnb ruff lint-imports pyright; do cp "$0" .venv/bin/$tool; done ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    script(tmp_path / "fakepython", FAKE)
    return tmp_path


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)


def make(folder, *arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", *arguments, f"PYTHON={folder}/fakepython"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def calls(folder, word):
    log = folder / "calls"
    return [line for line in log.read_text().splitlines() if word in line] if log.exists() else []


def test_the_second_call_installs_nothing(checkout):
    for _ in range(2):
        assert make(checkout, "run", "NB=03", "PROFILE=smoke", "SEED=1", "RESULTS=a b", "DATA=c d").returncode == 0
    assert len(calls(checkout, "-m venv")) == len(calls(checkout, "pip install")) == 1
    assert calls(checkout, "kdnb run") == ["kdnb run 03 --profile smoke --seeds 1 --out a b -p DATA c d"] * 2
    assert make(checkout, "run").returncode == 0
    assert calls(checkout, "kdnb run")[-1] == "kdnb run --profile lite --seeds 0 --out results"
    newer = (checkout / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(checkout / "pyproject.toml", (newer, newer))
    make(checkout, "install")
    assert len(calls(checkout, "pip install")) == 2 and len(calls(checkout, "-m venv")) == 1


def test_make_test_installs_the_extra_and_runs_everything(checkout):
    for _ in range(2):
        assert make(checkout, "test").returncode == 0
    assert [line.split()[-1] for line in calls(checkout, "pip install")] == [".[test]"]
    for tool in ("ruff check kdnb tests", "ruff format --check kdnb tests", "lint-imports", "pyright", "-m pytest"):
        assert len(calls(checkout, tool)) == 2, tool
    make(checkout, "run")
    assert len(calls(checkout, "pip install")) == 1  # the extra includes the rest


def test_an_interrupted_installation_is_taken_up_again(checkout):
    script(checkout / "fakepython", FAKE + 'case "$*" in *"pip install"*) [ -e online ] ;; esac\n')
    assert make(checkout, "install").returncode != 0
    (checkout / "online").touch()
    assert make(checkout, "install").returncode == 0
    assert len(calls(checkout, "pip install")) == 2


def test_an_old_python_is_named(checkout):
    script(checkout / "fakepython", 'case "$1" in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac\n')
    result = make(checkout, "run")
    assert result.returncode != 0 and not (checkout / ".venv").exists()
    assert "kdnb needs Python 3.10 or newer" in result.stderr and "Python 3.9.2" in result.stderr


def test_help_and_clean(checkout):
    assert {"make run", "make test", "make lint", "make install", "make lab", "make clean"} <= {
        " ".join(line.split()[:2]) for line in make(checkout, "help").stdout.splitlines()
    }
    data = ("data/voc_0123456789ab", "data/voc", "data/aligned_0123456789ab")
    for folder in (*data, ".venv", "results", "kdnb", "tests"):
        (checkout / folder).mkdir(parents=True)
    (checkout / "data" / "voc.md").touch()
    assert make(checkout, "clean").returncode == 0
    assert sorted(path.name for path in checkout.iterdir() if path.is_dir()) == ["data", "kdnb", "results", "tests"]
    # downloads and trained networks stay
    assert sorted(path.name for path in (checkout / "data").iterdir()) == ["aligned_0123456789ab", "voc", "voc.md"]


def test_continuous_integration_calls_make_test():
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK) and path.read_text().rstrip().endswith("make test")
    subprocess.run(["bash", "-n", path], check=True)
