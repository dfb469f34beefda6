"""05 in JupyterLab in a real browser: run all, then use every control of its explorer and look at the pixels."""

import json
import shutil
from pathlib import Path

import pytest
from lab import browser_page, changed, faults, jupyter_lab, open_and_run, pixels, with_parameters
from PIL import Image

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    work = home / "work" / "notebooks"
    work.mkdir(parents=True)
    notebook = json.loads((ROOT / "notebooks" / "05_camvid_prompt_kd.ipynb").read_text())
    (work / "05.ipynb").write_text(json.dumps(with_parameters(notebook, PROFILE="smoke")))
    with jupyter_lab(work, home) as (base, token), browser_page(base) as (page, errors, strangers):
        open_and_run(page, base, token, "05.ipynb", seconds=240)
        yield page, errors, strangers, home


def explorer(page):
    screen = page.locator(".widget-image, .jupyter-widgets img").last
    screen.scroll_into_view_if_needed()
    return screen


def test_it_runs_and_every_control_changes_the_picture(session, tmp_path):
    page, errors, strangers, home = session
    assert faults(page) == []
    screen = explorer(page)

    def after(gesture) -> float:
        before = pixels(screen)
        gesture()
        page.wait_for_timeout(1500)
        assert faults(page) == []
        return changed(before, pixels(screen))

    slider = page.locator(".noUi-handle").last
    box = page.locator(".jupyter-widgets input[type=text]").first  # what the sky is called

    def fade():
        slider.focus()
        for _ in range(10):
            slider.press("ArrowLeft")

    def rename_the_sky():
        box.fill("zebra; teapot; harpsichord")
        box.press("Enter")

    page.screenshot(path=home / "explorer_before.png")
    assert after(fade) > 0.01
    assert after(lambda: page.locator(".widget-checkbox input").first.click()) > 0.01
    assert after(rename_the_sky) > 0.001
    assert after(lambda: page.locator("button:has-text('the prompts as they were')").click()) > 0.001
    assert box.input_value() != "zebra; teapot; harpsichord"
    assert after(lambda: page.locator(".widget-dropdown select").last.select_option(index=1)) > 0.01
    upload = tmp_path / "mine.png"
    Image.effect_noise((200, 120), 90).convert("RGB").save(upload)
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").last.click()
    assert after(lambda: chooser.value.set_files(upload)) > 0.01
    page.screenshot(path=home / "explorer_after.png")
    assert errors == [] and strangers == []


def test_faults_are_told_inside_the_explorer(session, tmp_path):
    """A prompt without words, a file that is no picture."""
    page = session[0]
    box = page.locator(".jupyter-widgets input[type=text]").nth(3)
    words = box.input_value()
    box.fill(" ; ")
    box.press("Enter")
    page.wait_for_selector("text=the prompt of road is empty, expected words", timeout=10_000)
    box.fill(words)
    box.press("Enter")
    bad = tmp_path / "notes.png"
    bad.write_text("no picture")
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").last.click()
    chooser.value.set_files(bad)
    page.wait_for_selector("text=notes.png: not a readable picture", timeout=10_000)
    assert faults(page) == []
