"""One JupyterLab for all files of a process, a browser for each file, and in it the notebook of the file's number."""

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import chromium, jupyter_lab, new_page, notebook_run
from lesson import Lesson
from PIL import Image

ROOT = Path(__file__).parents[2]
SEED = 1  # that of tests/test_notebooks.py: whoever comes first trains the networks that 02 takes from 01


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """One folder for the runs of all notebooks and of all processes of pytest-xdist: 07 runs only what is missing."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "results"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """(address, token, folder of notebooks) of a JupyterLab whose notebooks use the data folder of the checkout."""
    if shutil.which("chromium") is None:
        pytest.skip("needs chromium: apt-get install chromium")
    home = tmp_path_factory.mktemp("lab")
    folder = home / "work" / "notebooks"
    folder.mkdir(parents=True)
    (folder.parent / "data").symlink_to(ROOT / "data")
    shutil.copytree(ROOT / "notebooks" / "images", folder / "images")  # Jupyter serves no link that leads out
    with jupyter_lab(folder, home) as (base, token):
        yield base, token, folder


@pytest.fixture(scope="module")
def run_in_lab(server):
    """``with run_in_lab(name, notebook) as lesson``: a notebook that has run in a page of its own.

    The browser is closed with the file: Playwright's event loop, if it ran on, would break ``asyncio.run`` elsewhere.
    """
    base, token, folder = server
    with chromium() as browser:

        @contextmanager
        def run(name: str, notebook: dict):
            (folder / f"{name}.ipynb").write_text(json.dumps(notebook))
            with new_page(browser, base) as (page, faults), notebook_run(page, base, token, f"{name}.ipynb"):
                yield Lesson(page, faults, name)

        yield run


@pytest.fixture(scope="module")
def lesson(request, run_in_lab, results):
    """The notebook whose number ends the name of the test file, run in ``smoke``; faultless to the end."""
    number = request.path.stem[-2:]
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    notebook = with_parameters(json.loads(path.read_text()), PROFILE="smoke", SEED=SEED, RESULTS=str(results))
    with run_in_lab(number, notebook) as lesson:
        lesson.keep("before")
        assert lesson.faults() == []
        assert lesson.enlarged() <= 1.01
        yield lesson
        lesson.keep("after")
        assert lesson.faults() == []


def with_parameters(notebook: dict, **values) -> dict:
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    cell["source"] = "".join(cell["source"]) + "\n" + "\n".join(f"{k} = {v!r}" for k, v in values.items())
    return notebook


@pytest.fixture
def picture(tmp_path):
    """A picture to upload, 200 by 120 of noise."""
    path = tmp_path / "mine.png"
    Image.effect_noise((200, 120), 90).convert("RGB").save(path)
    return path


@pytest.fixture
def no_picture(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("no picture")
    return path
