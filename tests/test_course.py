"""What the notebooks share: the set-up cell, run where kdnb is missing, the links to the neighbours, the badges."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdnb import course
from kdnb.cli import main
from kdnb.notebooks import find_notebooks, read_notebook
from kdnb.publish import check_shape, code_hash

ROOT = Path(__file__).parents[1]


def setup_cell(path):
    (cell,) = [cell for cell in read_notebook(path).cells if "setup" in cell.metadata.get("tags", [])]
    return cell.source


def run_setup(source, folder, monkeypatch, installed=("torch",)):
    """Run the set-up cell in ``folder`` as if only ``installed`` were; returns the commands that it would have run."""
    commands = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in installed else None)

    def note(command, check):
        assert check
        commands.append(command)
        if command[:2] == ["git", "clone"]:
            (Path(command[-1]) / "notebooks").mkdir(parents=True)

    monkeypatch.setattr(subprocess, "run", note)
    exec(source, {})
    return commands


def test_all_notebooks_have_the_same_shared_cells():
    """Mend it with: kdnb publish NN, or kdnb publish --repo owner/name."""
    for path in find_notebooks():
        assert course.refresh_shared_cells(read_notebook(path), path) == read_notebook(path), path.name


def test_every_notebook_says_minutes_and_memory_at_the_top():
    for path in find_notebooks():
        top = read_notebook(path).cells[0].source
        for profile in ("smoke", "lite", "full"):
            (row,) = re.findall(rf"^\| `{profile}`.*\|$", top, re.MULTILINE)
            assert len(row.split("|")) == 6, (path.name, row)
        assert re.search(r"\| `lite`.*minutes?.*GB", top), path.name


def test_links_lead_through_all_notebooks():
    paths = find_notebooks()
    assert [path.stem[:2] for path in paths] == ["00", "01", "02", "03", "04", "05", "06", "07"]
    for before, after in zip(paths, paths[1:], strict=False):
        assert f"({after.name}) →" in course.nav_links(before)
        assert f"]({before.name}) ·" in course.nav_links(after)


def test_the_setup_cell_does_nothing_where_kdnb_is(tmp_path, monkeypatch):
    source = setup_cell(find_notebooks(["00"])[0])
    assert run_setup(source, tmp_path, monkeypatch, ("kdnb", "torch")) == []
    assert Path.cwd() == tmp_path


def test_the_setup_cell_installs_the_checkout_around_it(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    commands = run_setup(setup_cell(find_notebooks(["03"])[0]), tmp_path / "notebooks", monkeypatch)
    assert commands == [
        [sys.executable, "-m", "pip", "install", "--quiet", str(tmp_path), f"torch=={version('torch')}"]
    ]
    assert Path.cwd() == tmp_path / "notebooks"


def test_a_notebook_alone_fetches_the_course_once(tmp_path, monkeypatch):
    source = course.SETUP.format(repository="https://github.com/me/mine")
    clone, install = run_setup(source, tmp_path, monkeypatch, ())
    assert clone == ["git", "clone", "--quiet", "--depth", "1", "https://github.com/me/mine", "kdnb-course"]
    assert install[-1] == str(tmp_path / "kdnb-course")  # no torch there: none to keep
    assert Path.cwd() == tmp_path / "kdnb-course" / "notebooks"
    assert run_setup(source, tmp_path, monkeypatch, ("kdnb",)) == []  # after a restart of the kernel
    assert Path.cwd() == tmp_path / "kdnb-course" / "notebooks"


def test_a_notebook_alone_really_clones(tmp_path, monkeypatch):
    """Only pip is left out: git fetches a repository that lies beside."""
    real = subprocess.run
    home = tmp_path / "home"
    (home / "notebooks").mkdir(parents=True)
    (home / "notebooks" / "a.txt").touch()
    me = ["-c", "user.name=me", "-c", "user.email=me@home"]
    for arguments in (["init", "--quiet"], ["add", "."], [*me, "commit", "--quiet", "--message=all"]):
        real(["git", "-C", str(home), *arguments], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: "pip" in command or real(command, check=check))
    exec(course.SETUP.format(repository=home.as_uri()), {})
    assert os.listdir() == ["a.txt"]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of notebooks and pyproject.toml to publish in."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("*.png", ".*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_publish_repo_writes_addresses_everywhere_and_keeps_outputs_valid(copied):
    for name in ("old/place", "me/kdnb-fork"):
        done = CliRunner().invoke(main, ["publish", "--repo", name])
        assert done.exit_code == 0, done.output
    assert course.repository(Path("pyproject.toml")) == "https://github.com/me/kdnb-fork"
    assert (copied / "pyproject.toml").read_text().count("[project.urls]") == 1
    for path in find_notebooks():
        notebook, committed = read_notebook(path), read_notebook(ROOT / "notebooks" / path.name)
        top = notebook.cells[0].source
        assert f"colab.research.google.com/github/me/kdnb-fork/blob/main/notebooks/{path.name})" in top
        assert f"mybinder.org/v2/gh/me/kdnb-fork/main?labpath=notebooks%2F{path.name})" in top
        assert top.count("[![Open in") == 2 and "old/place" not in top
        assert 'REPOSITORY = "https://github.com/me/kdnb-fork"' in setup_cell(path)
        assert code_hash(notebook) == code_hash(committed)
        assert check_shape(notebook) == check_shape(committed)


@pytest.mark.parametrize("arguments", [["--repo", "https://github.com/a/b"], ["--repo", "a/b; rm"], []])
def test_publish_refuses_what_is_no_repository(copied, arguments):
    before = (copied / "pyproject.toml").read_text()
    done = CliRunner().invoke(main, ["publish", *arguments])
    assert done.exit_code == 1 and "owner/name" in done.output
    assert (copied / "pyproject.toml").read_text() == before


def test_the_badges_lie_beside_the_notebooks():
    for image in re.findall(r"\((images/.+?)\)", course.badges(Path("03_x.ipynb"), "https://github.com/a/b")):
        assert (ROOT / "notebooks" / image).stat().st_size > 0
