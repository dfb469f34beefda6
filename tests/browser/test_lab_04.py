"""04 in JupyterLab in a real browser: run all, use every control of its explorer, turn the cloud, watch a video."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from lab import IDLE, browser_page, changed, faults, jupyter_lab, open_and_run, pixels, with_parameters
from PIL import Image

ROOT = Path(__file__).parents[2]
PLAYER = "[...document.querySelectorAll('video')].pop()"

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    work = home / "work" / "notebooks"
    work.mkdir(parents=True)
    notebook = json.loads((ROOT / "notebooks" / "04_kitti_pseudo_lidar.ipynb").read_text())
    (work / "04.ipynb").write_text(json.dumps(with_parameters(notebook, PROFILE="smoke")))
    with jupyter_lab(work, home) as (base, token), browser_page(base) as (page, errors, strangers):
        open_and_run(page, base, token, "04.ipynb", seconds=240)
        yield page, errors, strangers, home
        assert errors == [] and strangers == []


@pytest.fixture
def page(session):
    """The page after its notebook ran, without a single fault before the test and after it."""
    assert faults(session[0]) == []
    yield session[0]
    assert faults(session[0]) == []


def at_rest(page, shown) -> np.ndarray:
    """What is shown once the kernel is idle and two looks in a row are alike."""
    now = pixels(shown)
    for _ in range(100):
        page.wait_for_function(IDLE)
        page.wait_for_timeout(150)
        before, now = now, pixels(shown)
        if not changed(before, now):
            return now
    raise AssertionError("it never comes to rest")


def within(page, seconds: float, condition) -> bool:
    """Whether a condition comes true in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        page.wait_for_timeout(150)
    return True


def changes(page, shown, gesture, least=0.005, seconds=20.0) -> bool:
    """Whether a gesture changes more than a share ``least`` of what is shown within ``seconds``, without a fault."""
    before = at_rest(page, shown)
    gesture()
    within(page, seconds, lambda: changed(before, pixels(shown)) > least)
    after = at_rest(page, shown)
    assert faults(page) == []
    return changed(before, after) > least


def explorer(page):
    screen = page.locator("img.widget-image").first
    screen.scroll_into_view_if_needed()
    return screen


def press(slider, key, times):
    slider.focus()
    for _ in range(times):
        slider.press(key)


def choose(page, which, path):
    """Choose a file for the explorer's upload (0) or the panel's (1)."""
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").nth(which).click()
    chooser.value.set_files(path)


def test_every_control_of_the_explorer_changes_the_picture(page, session):
    screen, home = explorer(page), session[-1]
    assert not changes(page, screen, lambda: None, least=0, seconds=1)  # the picture does not change by itself
    # nothing is learned in smoke: all scores are about 0.1, and the threshold starts at 0.3
    assert changes(page, screen, lambda: press(page.locator(".noUi-handle").first, "ArrowLeft", 5))
    page.screenshot(path=home / "explorer.png")
    arms, whole = page.locator(".widget-checkbox input"), pixels(screen)
    assert arms.count() == 4  # ground truth, teacher, baseline, distilled
    for k in range(4):
        assert changes(page, screen, arms.nth(k).click, least=0.002), k
    for k in range(4):
        arms.nth(k).click()
    assert within(page, 20, lambda: changed(whole, pixels(screen)) == 0)
    clouds = page.locator(".widget-toggle-buttons button")
    assert changes(page, screen, clouds.get_by_text("pseudo-LiDAR").click)
    assert changes(page, screen, lambda: page.locator(".widget-dropdown select").first.select_option(index=2), 0.1)


def test_your_own_image_with_a_guessed_field_of_view(page, session, tmp_path):
    screen, fov = explorer(page), page.locator(".noUi-handle").nth(1)
    assert not fov.is_visible()
    mine = tmp_path / "mine.jpg"
    Image.new("RGB", (400, 160), "magenta").save(mine)
    assert changes(page, screen, lambda: choose(page, 0, mine), 0.1)
    assert (abs(pixels(screen)[:200] - 105) < 12).mean() > 0.5  # magenta is that grey
    assert page.locator("text=The calibration is guessed").first.is_visible()
    assert changes(page, screen, lambda: press(fov, "ArrowLeft", 10))
    page.screenshot(path=session[-1] / "own_image.png")
    assert changes(page, screen, lambda: page.locator(".widget-dropdown select").first.select_option(index=1), 0.1)
    assert not fov.is_visible()


def test_a_broken_upload_is_told_in_one_line_and_changes_nothing(page, tmp_path):
    screen, notes = explorer(page), tmp_path / "notes.png"
    notes.write_text("no picture")
    shown = screen.get_attribute("src")
    choose(page, 0, notes)
    told = page.locator(".widget-html-content b", has_text="notes.png").inner_text()
    assert told == "InputError: notes.png: not a readable picture, expected a JPEG or PNG"
    page.wait_for_function(IDLE)
    assert screen.get_attribute("src") == shown  # a picture that is drawn anew has a new address


def test_the_cloud_turns_under_the_mouse(page, session):
    plot = page.locator(".js-plotly-plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)  # its tools appear, which is a change too
    page.wait_for_timeout(500)
    assert not changes(page, plot, lambda: None, least=0, seconds=1)

    def drag():
        page.mouse.down()
        page.mouse.move(middle[0] + 150, middle[1] + 40, steps=5)
        page.mouse.up()

    page.screenshot(path=session[-1] / "cloud.png")
    assert changes(page, plot, drag, least=0.01)
    page.screenshot(path=session[-1] / "cloud_turned.png")


def find_objects(page):
    button = page.get_by_role("button", name="find objects")
    button.scroll_into_view_if_needed()
    button.click()


def test_a_video_goes_through_the_panel_and_plays(page, session):
    find_objects(page)
    page.wait_for_selector(r"text=/(\d+) of \1 frames, written to/", timeout=60_000)
    page.wait_for_function(f"() => {PLAYER}?.readyState >= 2 && {PLAYER}.videoWidth > 0")
    video = page.locator("video").last
    video.scroll_into_view_if_needed()
    page.screenshot(path=session[-1] / "panel.png")
    first = pixels(video)
    video.click()
    page.wait_for_function(f"() => {PLAYER}.ended")
    assert changed(first, pixels(video)) > 0.1  # the last frame is another street


def test_a_broken_video_is_told_in_one_line_and_the_last_result_stays(page, tmp_path):
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"junk" * 400)
    choose(page, 1, junk)
    page.wait_for_function("() => [...document.querySelectorAll('input')].some(i => i.value.endsWith('junk.mp4'))")
    find_objects(page)
    told = page.locator(".widget-html-content b", has_text="junk.mp4")
    told.wait_for(timeout=20_000)
    assert "junk.mp4: cannot be read (" in told.inner_text() and "\n" not in told.inner_text()
    assert page.evaluate(f"() => {PLAYER}.videoWidth") > 0
