"""What every test gets: one thread, and the real samples where they lie beside the checkout."""

import os
from pathlib import Path

import pytest

# one process can have one precision only, so what needs a GPU runs in a process of its own
os.environ["CUDA_VISIBLE_DEVICES"] = ""


# test files run side by side, so a test and whatever it starts has one core
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", KDNB_THREADS="1")

# begun first, so that nothing waits for them alone
LONGEST = (
    "browser",
    "test_notebooks.py",
    "test_voc_defeat.py",
    "test_car_kfold.py",
    "test_workers.py",
    "test_camvid_prompt_kd.py",
    "test_kitti_pseudo_lidar.py",
    "test_coco_alignment.py",
)


def pytest_collection_modifyitems(items):
    def place(item):
        names = item.path.name, item.path.parent.name
        return next((place for place, name in enumerate(LONGEST) if name in names), len(LONGEST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """As pytest-xdist does, but all files of tests/browser go to one process, one after the other: they mostly wait,
    so that others have the cores meanwhile, and 07 shows the runs of the notebooks before it."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "tests/browser" if "browser/" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


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
