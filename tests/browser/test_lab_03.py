"""03 in JupyterLab in a real browser: run all, then use every control of its explorer and look at the pixels."""

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
    notebook = json.loads((ROOT / "notebooks" / "03_voc_defeat.ipynb").read_text())
    (work / "03.ipynb").write_text(json.dumps(with_parameters(notebook, PROFILE="smoke")))
    raising = {**notebook, "cells": [{**notebook["cells"][2], "source": "raise ValueError('on purpose')"}]}
    (work / "raising.ipynb").write_text(json.dumps(raising))
    with jupyter_lab(work, home) as (base, token), browser_page(base) as (page, errors, strangers):
        open_and_run(page, base, token, "03.ipynb", seconds=240)
        yield page, errors, strangers, base, token, home


def explorer(page):
    screen = page.locator(".widget-image, .jupyter-widgets img").last
    screen.scroll_into_view_if_needed()
    return screen


def test_it_runs_and_every_control_changes_the_picture(session, tmp_path):
    page, errors, strangers, _, _, home = session
    assert faults(page) == []
    screen = explorer(page)

    def after(gesture) -> float:
        before = pixels(screen)
        gesture()
        page.wait_for_timeout(1500)
        assert faults(page) == []
        return changed(before, pixels(screen))

    slider = page.locator(".noUi-handle").last

    def lower_threshold():
        slider.focus()
        for _ in range(10):
            slider.press("ArrowLeft")

    page.screenshot(path=home / "explorer_before.png")
    assert after(lower_threshold) > 0.001
    assert after(lambda: page.locator(".widget-checkbox input").first.click()) > 0.01
    assert after(lambda: page.locator(".widget-dropdown select").last.select_option(index=1)) > 0.01
    assert after(lambda: page.locator(".widget-dropdown select").nth(-2).select_option(index=3)) > 0.01
    upload = tmp_path / "mine.png"
    Image.effect_noise((200, 120), 90).convert("RGB").save(upload)
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").last.click()
    assert after(lambda: chooser.value.set_files(upload)) > 0.01
    page.screenshot(path=home / "explorer_after.png")
    assert errors == [] and strangers == []


def test_a_bad_upload_is_told_inside_the_explorer(session, tmp_path):
    page = session[0]
    bad = tmp_path / "notes.png"
    bad.write_text("no picture")
    with page.expect_file_chooser() as chooser:
        page.locator(".widget-upload").last.click()
    chooser.value.set_files(bad)
    page.wait_for_selector("text=notes.png: not a readable picture", timeout=10_000)
    assert faults(page) == []


def test_a_raising_cell_is_noticed(session):
    """The control: the check above would fail on an error."""
    page, _, _, base, token, _ = session
    open_and_run(page, base, token, "raising.ipynb", seconds=60)
    assert any("on purpose" in text for text in faults(page))
