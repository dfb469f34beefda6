"""01 and 02 in JupyterLab in a real browser: run all, then use every control of their explorers, look at pixels."""

import json
import shutil
from pathlib import Path

import pytest
from lab import browser_page, changed, faults, jupyter_lab, open_and_run, pixels, with_parameters
from PIL import Image

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    work = home / "work" / "notebooks"
    work.mkdir(parents=True)
    for name in ("01_coco_alignment", "02_talk2car_grounding"):
        notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())
        (work / f"{name[:2]}.ipynb").write_text(json.dumps(with_parameters(notebook, PROFILE="smoke")))
    with jupyter_lab(work, home) as (base, token), browser_page(base) as (page, errors, strangers):
        yield page, errors, strangers, base, token, home


@pytest.mark.parametrize(
    ("number", "typed"),
    [("01", "a photo of a blue bus"), ("02", "stop behind the blue car on the left")],
)
def test_it_runs_and_every_control_changes_the_picture(lab, number, typed, tmp_path):
    page, errors, strangers, base, token, home = lab
    open_and_run(page, base, token, f"{number}.ipynb", seconds=240)
    assert faults(page) == []
    screen = page.locator(".widget-image, .jupyter-widgets img").last
    screen.scroll_into_view_if_needed()

    def after(gesture) -> float:
        before = pixels(screen)
        gesture()
        page.wait_for_timeout(1500)
        assert faults(page) == []
        return changed(before, pixels(screen))

    def type_a_sentence():
        box = page.locator(".widget-text input").last
        box.fill(typed)
        box.press("Enter")

    def more_rows():
        slider = page.locator(".noUi-handle").last
        slider.focus()
        for _ in range(3):
            slider.press("ArrowRight")

    page.screenshot(path=home / f"explorer_{number}_before.png")
    assert after(type_a_sentence) > 0.001
    assert after(more_rows) > 0.0005
    assert after(lambda: page.locator(".widget-checkbox input").first.click()) > 0.01
    assert after(lambda: page.locator(".widget-dropdown select").first.select_option(index=1)) > 0.005
    if number == "02":
        assert after(lambda: page.locator(".widget-dropdown select").last.select_option(index=2)) > 0.005
    upload = tmp_path / "mine.png"
    Image.effect_noise((200, 120), 90).convert("RGB").save(upload)
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").last.click()
    assert after(lambda: chooser.value.set_files(upload)) > 0.01
    page.screenshot(path=home / f"explorer_{number}_after.png")
    assert errors == [] and strangers == []
