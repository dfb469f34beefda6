"""What all notebooks share: the set-up cell, the links to the neighbours and the badges.

The repository's address is kept in pyproject.toml, ``[project.urls] Repository``, and copied from there.
"""

import copy
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.notebooks import find_notebooks, notebooks_folder, read_notebook

ABOUT_SETUP = """\
## Set-up

If kdnb is already installed, the first cell does nothing. Elsewhere, for example on Colab or Kaggle, it fetches the
course and installs it, and keeps the version of torch that is already there. The second cell holds all parameters."""
SETUP = """\
import importlib.util, os, subprocess, sys
from importlib.metadata import version
from pathlib import Path

REPOSITORY = "{repository}"  # written by: kdnb publish --repo owner/name
course = Path("..") if Path("../pyproject.toml").exists() else Path("kdnb-course")
if importlib.util.find_spec("kdnb") is None:
    if not course.exists():  # this notebook came alone
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, str(course)], check=True)
    keep = [f"{{name}}=={{version(name)}}" for name in ("torch", "torchvision") if importlib.util.find_spec(name)]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", str(course.resolve()), *keep], check=True)
if Path("kdnb-course").exists():  # data and results go into the course's folder
    os.chdir("kdnb-course/notebooks")"""
NAV_LINKS = re.compile(r"^← .*|.* →$")
BADGES = re.compile(r"^\[!\[Open in ")
GITHUB = "https://github.com/"


# --- the repository's address ------------------------------------------------------------------------------------


def repository(pyproject: Path) -> str:
    """The address in pyproject.toml, "" if it has none."""
    text = pyproject.read_text(encoding="utf-8") if pyproject.is_file() else ""
    match = re.search(r'^Repository = "(.*)"$', text, re.MULTILINE)
    return match[1] if match else ""


def set_repository(name: str, pyproject: Path) -> None:
    """Write the address of ``owner/name`` on GitHub into pyproject.toml; raises InputError for any other name."""
    if not re.fullmatch(r"[A-Za-z0-9-]+/[\w.-]+", name):
        raise InputError(f"{name!r} is not a repository on GitHub, expected owner/name")
    text = re.sub(r'\n\[project\.urls\]\nRepository = ".*"\n', "", pyproject.read_text(encoding="utf-8"))
    entry = f'\n[project.urls]\nRepository = "{GITHUB}{name}"\n'
    atomic_write(pyproject, text.replace("\n[project.scripts]", entry + "\n[project.scripts]", 1))


# --- the shared cells --------------------------------------------------------------------------------------------


def refresh_notebooks() -> list[Path]:
    """Renew the shared cells of all committed notebooks; returns the paths of those that changed."""
    changed = []
    for path in find_notebooks():
        notebook = read_notebook(path)
        refreshed = refresh_shared_cells(notebook, path)
        if refreshed != notebook:
            atomic_write(path, nbformat.writes(refreshed) + "\n")
            changed.append(path)
    return changed


def refresh_shared_cells(notebook: NotebookNode, path: Path) -> NotebookNode:
    """A copy of the notebook at ``path`` with up-to-date shared cells; outputs stay."""
    notebook = copy.deepcopy(notebook)
    address = repository(notebooks_folder().parent / "pyproject.toml")
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    links = nav_links(path)
    (title, text), last = _without_shared(prose[0].source).split("\n", 1), _without_shared(prose[-1].source)
    prose[0].source = "\n\n".join(part for part in (title, badges(path, address), links, text.strip()) if part)
    prose[-1].source = f"{last}\n\n{links}"
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if "setup" in cell.metadata.get("tags", []):
            before.source, cell.source = ABOUT_SETUP, SETUP.format(repository=address)
    return notebook


def _without_shared(source: str) -> str:
    kept = [line for line in source.splitlines() if not NAV_LINKS.match(line) and not BADGES.match(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def nav_links(path: Path) -> str:
    """One line of Markdown: links to the previous notebook, the course and the next notebook."""
    paths = find_notebooks()
    place = [other.stem for other in paths].index(path.stem)
    before = f"← [{_title(paths[place - 1])}]({paths[place - 1].name})" if place else ""
    after = f"[{_title(paths[place + 1])}]({paths[place + 1].name}) →" if place + 1 < len(paths) else ""
    return " · ".join(part for part in (before, "[the course](../README.md#the-course)", after) if part)


def _title(path: Path) -> str:
    """ "03 · VOC DeFeat" of "# 03 · VOC DeFeat: teaching a small detector ..."."""
    return read_notebook(path).cells[0].source.splitlines()[0].removeprefix("# ").split(":")[0]


def badges(path: Path, address: str) -> str:
    """Links that open the notebook in Colab and on Binder; "" if the repository has no address.

    The images lie beside the notebooks, so that loading a page requests nothing from third parties.
    """
    if not address:
        return ""
    name = address.removeprefix(GITHUB)
    colab = f"https://colab.research.google.com/github/{name}/blob/main/notebooks/{path.name}"
    binder = f"https://mybinder.org/v2/gh/{name}/main?labpath=notebooks%2F{path.name}"
    return (
        f"[![Open in Colab](images/open_in_colab.svg)]({colab}) "
        f"[![Open in Binder](images/open_in_binder.svg)]({binder})"
    )
