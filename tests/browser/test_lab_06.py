"""06 in JupyterLab in a real browser: run all, then use every control of its explorer and look at the pixels."""

import json
import shutil
from pathlib import Path

import pytest
from lab import IDLE, browser_page, changed, faults, jupyter_lab, open_and_run, pixels, with_parameters
from PIL import Image

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    work = home / "work" / "notebooks"
    work.mkdir(parents=True)
    notebook = json.loads((ROOT / "notebooks" / "06_car_5fold_kd.ipynb").read_text())
    (work / "06.ipynb").write_text(json.dumps(with_parameters(notebook, PROFILE="smoke")))
    with jupyter_lab(work, home) as (base, token), browser_page(base) as (page, errors, strangers):
        open_and_run(page, base, token, "06.ipynb", seconds=240)
        yield page, errors, strangers, home


def explorer(page):
    screen = page.locator("img.widget-image").last
    screen.scroll_into_view_if_needed()
    return screen


def choose(page, path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").last.click()
    chooser.value.set_files(path)


def test_it_runs_and_every_control_changes_the_picture(session, tmp_path):
    page, errors, strangers, home = session
    assert faults(page) == []
    screen = explorer(page)

    def after(gesture) -> float:
        before = pixels(screen)
        gesture()
        page.wait_for_timeout(1500)
        page.wait_for_function(IDLE)
        assert faults(page) == []
        return changed(before, pixels(screen))

    temperature, cars = page.locator(".noUi-handle").last, page.locator(".widget-dropdown select").last
    arms = page.locator(".widget-checkbox input")

    def press(key, times=20):
        temperature.focus()
        for _ in range(times):
            temperature.press(key)

    assert after(lambda: None) == 0  # the picture does not change by itself
    page.screenshot(path=home / "explorer_before.png")
    # nothing is learned in smoke: soft labels are nearly level at every temperature, so little moves
    assert after(lambda: press("ArrowRight")) > 0
    assert after(lambda: cars.select_option(index=1)) > 0.01
    whole = pixels(screen)
    for k in range(arms.count()):
        assert after(arms.nth(k).click) > 0.002, k
    for k in range(arms.count()):
        after(arms.nth(k).click)
    assert arms.count() >= 2 and changed(whole, pixels(screen)) == 0
    upload = tmp_path / "mine.png"
    Image.effect_noise((200, 120), 90).convert("RGB").save(upload)
    assert after(lambda: choose(page, upload)) > 0.01
    assert "mine.png" in cars.locator("option").first.inner_text()
    assert after(lambda: press("ArrowLeft")) > 0  # its soft labels have a temperature too
    page.screenshot(path=home / "explorer_after.png")
    assert errors == [] and strangers == []


def test_a_broken_upload_is_told_in_one_line_and_changes_nothing(session, tmp_path):
    page = session[0]
    screen, bad = explorer(page), tmp_path / "notes.png"
    bad.write_text("no picture")
    before = pixels(screen)
    choose(page, bad)
    told = page.locator(".widget-html-content b", has_text="notes.png")
    told.wait_for(timeout=10_000)
    assert told.inner_text() == "InputError: notes.png: not a readable picture, expected a JPEG or PNG"
    page.wait_for_function(IDLE)
    assert changed(before, pixels(explorer(page))) == 0
    assert faults(page) == []
