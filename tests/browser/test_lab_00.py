"""00 in JupyterLab in a real browser: run all, then use every control of the street and look at the pixels."""

import json
import shutil
from pathlib import Path

import pytest
from lab import browser_page, changed, faults, jupyter_lab, open_and_run, pixels, with_parameters

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    work = home / "work" / "notebooks"
    work.mkdir(parents=True)
    notebook = json.loads((ROOT / "notebooks" / "00_distillation_primer.ipynb").read_text())
    (work / "00.ipynb").write_text(json.dumps(with_parameters(notebook, PROFILE="smoke")))
    with jupyter_lab(work, home) as (base, token), browser_page(base) as (page, errors, strangers):
        open_and_run(page, base, token, "00.ipynb", seconds=240)
        yield page, errors, strangers, home


def test_it_runs_and_every_control_changes_the_picture(session):
    page, errors, strangers, home = session
    assert faults(page) == []
    screen = page.locator(".widget-image, .jupyter-widgets img").last
    screen.scroll_into_view_if_needed()

    def after(gesture) -> float:
        before = pixels(screen)
        gesture()
        page.wait_for_timeout(2000)
        assert faults(page) == []
        return changed(before, pixels(screen))

    def slide(number: int, key: str, times: int):
        handle = page.locator(".noUi-handle").nth(number)
        handle.focus()
        for _ in range(times):
            handle.press(key)

    boxes = page.locator(".widget-dropdown select")  # street, light, beams
    page.screenshot(path=home / "explorer_before.png")
    assert after(lambda: boxes.nth(0).select_option(index=2)) > 0.05
    assert after(lambda: boxes.nth(1).select_option(label="evening")) > 0.05
    assert after(lambda: boxes.nth(2).select_option(label="16")) > 0.005
    assert after(lambda: slide(0, "ArrowRight", 20)) > 0.05  # height
    assert after(lambda: slide(1, "ArrowRight", 10)) > 0.05  # looking down
    assert after(lambda: slide(2, "ArrowLeft", 5)) > 0.05  # field of view
    assert after(lambda: slide(3, "ArrowLeft", 3)) > 0.001  # cars
    page.screenshot(path=home / "explorer_after.png")
    assert errors == [] and strangers == []
