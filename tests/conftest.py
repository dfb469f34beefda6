"""What every test gets: few threads, and the real samples where they lie beside the checkout."""

import os
from pathlib import Path

import pytest

# one process can have one precision only, so what needs a GPU runs in a process of its own
os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    """Tests run on small tensors and beside other work: more than two threads only make them wait for each other."""
    import torch

    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def real_data():
    """The folder with small samples of the real data sets; the test is skipped where it is missing."""
    folder = (Path(__file__).parents[1] / ".." / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip("needs the real samples in ../shared/data")
    return folder
