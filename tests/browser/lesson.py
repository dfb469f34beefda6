"""Hands and eyes on a notebook that runs in a browser: gestures on its explorer, and what they do to its picture."""

import io
import re
import time
from pathlib import Path

import numpy as np
from lab import ANSWERED
from PIL import Image

from kdnb.publish import PROGRESS

ASKED_EARLY = "No such comm"  # JupyterLab asks a new kernel for its widgets, before ipywidgets is there to answer
ARTEFACTS = Path(__file__).parents[2] / "test-artifacts" / "browser"
# an error among the outputs; a widget whose model or view is missing; an output of which that is the whole
BROKEN = """() => [...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.error"],'
        + '.jupyter-widgets-error-widget, .jp-OutputArea-output.jupyter-widgets')].map(one => one.innerText)"""


class Lesson:
    """A notebook in a page.

    Its explorer is the last output with a picture that is a widget; controls are called as the explorer calls them.
    """

    NO_PICTURE = "InputError: notes.png: not a readable image, expected a JPEG or PNG"

    def __init__(self, page, of_page: list[str], name: str):
        self.page, self.of_page, self.name = page, of_page, name
        picture = page.locator("img.widget-image")
        self.explorer = page.locator(".jp-OutputArea-child", has=picture).last
        self.screen = self.explorer.locator("img.widget-image").last

    # --- what went wrong

    def faults(self) -> list[str]:
        """All of it so far: what the kernel raised in cells and in callbacks, what it wrote on stderr (but for progress
        bars), outputs and widgets that are broken, errors of the page, requests that left the machine."""
        errors, stderr = self.page.evaluate("() => [window.errors, window.stderr]")
        lines = [line for line in re.split(r"[\r\n]", stderr) if line.strip(" \x1b[A")]
        lines = [line for line in lines if not PROGRESS.search(line) and not line.startswith(ASKED_EARLY)]
        return errors + lines + self.page.evaluate(BROKEN) + self.of_page

    def place(self, moment: str) -> Path:
        """Where a screenshot is kept."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        return ARTEFACTS / f"{self.name}_{moment}.png"

    def keep(self, moment: str) -> None:
        """A screenshot of the page with the explorer at the top, unless a fault keeps it from coming."""
        if self.explorer.count() or not self.faults():
            self.explorer.evaluate("element => element.scrollIntoView()")
        self.page.screenshot(path=self.place(moment))

    # --- eyes

    def enlarged(self) -> float:
        """How many times larger than its pixels the explorer's picture is shown; it may shrink with the page."""
        return self.screen.evaluate("picture => picture.clientWidth / picture.naturalWidth")

    def at_rest(self, shown=None) -> np.ndarray:
        """What is shown once the kernel has answered everything and two looks in a row are alike."""
        shown = shown or self.screen
        now = pixels(shown)
        for _ in range(100):
            self.page.wait_for_function(ANSWERED)
            self.page.wait_for_timeout(100)
            before, now = now, pixels(shown)
            if not difference(before, now):
                return now
        raise AssertionError("it never comes to rest")

    def within(self, seconds: float, condition) -> bool:
        """Whether a condition comes true in that time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.page.wait_for_timeout(100)
        return True

    def changes(self, gesture, least: float = 0.005, seconds: float = 20, shown=None) -> bool:
        """Whether a gesture changes more than a share ``least`` of the picture within ``seconds``, without a fault."""
        before = self.at_rest(shown)
        gesture()
        changed = self.within(seconds, lambda: difference(before, self.at_rest(shown)) > least)
        assert self.faults() == []
        return changed

    def refuses(self, gesture, words: str) -> str:
        """What the explorer says in red, with ``words`` in it, to a gesture that leaves the picture as it was."""
        shown = self.screen.get_attribute("src")  # a picture that is drawn anew has a new address
        gesture()
        told = self.explorer.locator(".widget-html-content b", has_text=words)
        told.wait_for()
        self.at_rest()
        assert self.screen.get_attribute("src") == shown
        assert self.faults() == []
        return told.inner_text()

    # --- hands

    def slide(self, name: str, key: str, times: int) -> None:
        """Arrow keys on a slider."""
        label = self.page.get_by_text(name, exact=True)
        handle = self.explorer.locator(".widget-slider", has=label).locator(".noUi-handle")
        handle.focus()
        for _ in range(times):
            handle.press(key)

    def pick(self, name: str, **option) -> None:
        """An option of a dropdown, by its ``index`` or ``label``."""
        self.explorer.get_by_label(name, exact=True).select_option(**option)

    def write(self, name: str, words: str) -> None:
        """Words into a text box, then Enter."""
        box = self.explorer.get_by_label(name, exact=True)
        box.fill(words)
        box.press("Enter")

    def ticks(self) -> list:
        """The check boxes."""
        return self.explorer.locator(".widget-checkbox input").all()

    def upload(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.explorer.locator(".widget-upload").click()
        chooser.value.set_files(path)


def pixels(shown) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shown.screenshot())).convert("L"), int)


def difference(before: np.ndarray, after: np.ndarray) -> float:
    """Share of pixels that differ; 1 when the picture changed its size."""
    return 1.0 if before.shape != after.shape else float((abs(before - after) > 16).mean())
