"""One JupyterLab for all files of a process, a browser for each file, and in it the notebook of the file's number."""

import json
import os
import shutil
from contextlib import contextmanager

import pytest
from lab import chromium, jupyter_lab, kernel_seconds, new_page, notebook_run
from lesson import Lesson
from notebook_runs import (
    HAS_BROWSER,
    NOTEBOOKS,
    ROOT,
    SECONDS,
    SEED,
    check_run,
    check_scoreboard,
    folder_of_run,
    without_one,
)
from PIL import Image


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """One folder for the runs of all notebooks and of all processes of pytest-xdist: 07 runs only what is missing."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "results"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """(JupyterLab, folder of notebooks), which use the data folder of the checkout."""
    if not HAS_BROWSER:
        pytest.skip("needs chromium: apt-get install chromium")
    home = tmp_path_factory.mktemp("lab")
    folder = home / "work" / "notebooks"
    folder.mkdir(parents=True)
    (folder.parent / "data").symlink_to(ROOT / "data")
    shutil.copytree(ROOT / "notebooks" / "images", folder / "images")  # Jupyter serves no link that leads out
    with jupyter_lab(folder, home) as lab:
        yield lab, folder


@pytest.fixture(scope="module")
def run_in_lab(server):
    """``with run_in_lab(name, notebook) as lesson``: a notebook that has run in a page of its own.

    The browser is closed with the file: Playwright's event loop, if it ran on, would break ``asyncio.run`` elsewhere.
    """
    lab, folder = server
    with chromium() as browser:

        @contextmanager
        def run(name: str, notebook: dict):
            (folder / f"{name}.ipynb").write_text(json.dumps(notebook))
            with new_page(browser, lab.address) as (page, faults), notebook_run(page, lab, f"{name}.ipynb"):
                yield Lesson(page, faults, name)

        yield run


@pytest.fixture(scope="module")
def lesson(request, run_in_lab, server, results, tmp_path_factory):
    """The notebook whose number ends the name of the test file, run in ``smoke``; faultless to the end.

    Its run is whole, as tests/test_notebooks.py asks of the command line where there is no browser.
    """
    number = request.path.stem[-2:]
    (path,) = (path for path in NOTEBOOKS if path.stem[:2] == number)
    if number == "07":
        results = without_one(results, tmp_path_factory.mktemp("07") / "results")
    notebook = with_parameters(json.loads(path.read_text()), PROFILE="smoke", SEED=SEED, RESULTS=str(results))
    with run_in_lab(number, notebook) as lesson:
        seconds = kernel_seconds(server[0])
        lesson.keep("before")
        assert lesson.faults() == []
        assert lesson.enlarged() <= 1.01
        if number == "07":
            check_scoreboard(folder_of_run(results, path))
        else:
            check_run(path, folder_of_run(results, path))
            assert seconds < SECONDS
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
