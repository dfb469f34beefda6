"""What every test gets: one thread, and the real samples where they lie beside the checkout."""

import os
from pathlib import Path

import pytest

# one process can have one precision only, so what needs a GPU runs in a process of its own
os.environ["CUDA_VISIBLE_DEVICES"] = ""


# two test files run side by side, so a test and whatever it starts has one core
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", KDNB_THREADS="1")

LONGEST = ("test_notebooks.py", "test_voc_defeat.py")  # begun first, so that nothing waits for them alone


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data():
    """The folder with small samples of the real data sets; the test is skipped where it is missing."""
    folder = (Path(__file__).parents[1] / ".." / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip("needs the real samples in ../shared/data")
    return folder
