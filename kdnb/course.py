"""What all notebooks share and no one writes twice: the set-up cell, the way to the neighbours, and the badges.

The repository's address is kept in pyproject.toml, ``[project.urls] Repository``; from there it gets everywhere else.
"""

import copy
import re
from pathlib import Path

import nbformat

from kdnb.errors import InputError
from kdnb.notebooks import find_notebooks, notebooks_folder, read_notebook
from kdnb.run import atomic_write

ABOUT_SETUP = """\
## Set-up

The first cell does nothing where kdnb is installed. Elsewhere, as on Colab or Kaggle, it fetches the course and
installs it beside the torch that is there. The cell after it holds the only parameters."""
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
WAY = re.compile(r"^← .*|.* →$")
BADGES = re.compile(r"^\[!\[Open in ")
GITHUB = "https://github.com/"


# --- the repository's address ------------------------------------------------------------------------------------


def repository(pyproject):
    """The address in pyproject.toml, "" before there is one."""
    text = Path(pyproject).read_text(encoding="utf-8") if Path(pyproject).is_file() else ""
    found = re.search(r'^Repository = "(.*)"$', text, re.MULTILINE)
    return found[1] if found else ""


def set_repository(name, pyproject):
    """Write ``owner/name`` on GitHub into pyproject.toml; raises InputError for anything else than such a name."""
    if not re.fullmatch(r"[A-Za-z0-9-]+/[\w.-]+", name):
        raise InputError(f"{name!r} is no repository on GitHub, expected owner/name")
    text = re.sub(r'\n\[project\.urls\]\nRepository = ".*"\n', "", Path(pyproject).read_text(encoding="utf-8"))
    entry = f'\n[project.urls]\nRepository = "{GITHUB}{name}"\n'
    atomic_write(Path(pyproject), text.replace("\n[project.scripts]", entry + "\n[project.scripts]", 1))


# --- the shared cells --------------------------------------------------------------------------------------------


def refresh_notebooks():
    """Write the shared cells of all committed notebooks anew; returns the paths of those that changed."""
    changed = []
    for path in find_notebooks():
        notebook = read_notebook(path)
        dressed = refresh_shared_cells(notebook, path)
        if dressed != notebook:
            atomic_write(path, nbformat.writes(dressed) + "\n")
            changed.append(path)
    return changed


def refresh_shared_cells(notebook, path):
    """A copy of the notebook at ``path`` with the shared cells as they are to be; outputs stay."""
    notebook = copy.deepcopy(notebook)
    address = repository(notebooks_folder().parent / "pyproject.toml")
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    way = nav_links(path)
    first, last = _without_shared(prose[0].source).split("\n", 1), _without_shared(prose[-1].source)
    prose[0].source = "\n\n".join(part for part in (first[0], badges(path, address), way, first[1].strip()) if part)
    prose[-1].source = f"{last}\n\n{way}"
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if "setup" in cell.metadata.get("tags", []):
            before.source, cell.source = ABOUT_SETUP, SETUP.format(repository=address)
    return notebook


def _without_shared(source):
    kept = [line for line in source.splitlines() if not WAY.match(line) and not BADGES.match(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def nav_links(path):
    """One line with links to the notebook before this one and the one after it."""
    paths = find_notebooks()
    place = [other.stem for other in paths].index(Path(path).stem)
    before = f"← [{_title(paths[place - 1])}]({paths[place - 1].name})" if place else ""
    after = f"[{_title(paths[place + 1])}]({paths[place + 1].name}) →" if place + 1 < len(paths) else ""
    return " · ".join(part for part in (before, "[the course](../README.md#the-course)", after) if part)


def _title(path):
    """ "03 · VOC DeFeat" of "# 03 · VOC DeFeat: teaching a small detector ..."."""
    return read_notebook(path).cells[0].source.splitlines()[0].removeprefix("# ").split(":")[0]


def badges(path, address):
    """Links that open the notebook in Colab and on Binder; "" as long as the repository has no address.

    The pictures lie beside the notebooks, because a page that loads is not to ask strangers for anything.
    """
    if not address:
        return ""
    name, path = address.removeprefix(GITHUB), Path(path)
    colab = f"https://colab.research.google.com/github/{name}/blob/main/notebooks/{path.name}"
    binder = f"https://mybinder.org/v2/gh/{name}/main?labpath=notebooks%2F{path.name}"
    return (
        f"[![Open in Colab](images/open_in_colab.svg)]({colab}) "
        f"[![Open in Binder](images/open_in_binder.svg)]({binder})"
    )
