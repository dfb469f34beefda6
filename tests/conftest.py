"""What every test gets: one thread, and the real samples where they lie beside the checkout."""

import os
from itertools import zip_longest
from pathlib import Path

import pytest

# one process can have one precision only, so what needs a GPU runs in a process of its own
os.environ["CUDA_VISIBLE_DEVICES"] = ""


# test files run side by side, so a test and whatever it starts has one core
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", KDNB_THREADS="1")

# begun first, so that nothing waits for them alone; after each, a notebook in a browser, which mostly waits
LONGEST = (
    "test_notebooks",
    "test_voc_defeat",
    "test_car_kfold",
    "test_workers",
    "test_camvid_prompt_kd",
    "test_kitti_pseudo_lidar",
    "test_coco_alignment",
    "test_torchrun_01_02",
    "test_eighth_project",
    "test_fusion3d_full",
)
LABS = tuple(f"test_lab_0{number}" for number in range(7))
ORDER = [name for pair in zip_longest(LONGEST, LABS) for name in pair if name]
ORDER.append("test_lab_07")  # it shows the runs of those before it


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else len(ORDER))


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
