"""The controls of these tests: what must not pass as a notebook without a fault, or as a picture that changed."""

from nbformat.v4 import new_code_cell, new_notebook

NOBODY = "{'application/vnd.jupyter.widget-view+json': {'model_id': 'nobody', 'version_major': 2, 'version_minor': 0}}"
FAULTS = {  # what a cell does: what is told of it
    "import sys; print('oh no', file=sys.stderr)": "oh no",
    "import warnings; warnings.warn('beware')": "UserWarning: beware",
    "import ipywidgets; ipywidgets.HTML(_model_name='NoModel')": "Class NoModel not found",
    "ipywidgets.HBox([ipywidgets.HTML(_view_name='NoView')])": "Class NoView not found",
    f"display({NOBODY}, raw=True)": "Error displaying widget: model not found",
    "display(HTML('<img src=http://stranger.invalid/a.png>'))": "leaves the machine: http://stranger.invalid/a.png",
    "display(HTML('<img src=no_such_picture.png>'))": "no_such_picture.png",
    "display(Javascript('setTimeout(() => { throw Error(1234) })'))": "error in the page: 1234",
    "import urllib.request; urllib.request.urlopen('http://stranger.invalid')": "Connection refused",
}
EXPLORER = """\
import io
import ipywidgets as widgets
from PIL import Image
def grey(level):
    buffer = io.BytesIO()
    Image.new("L", (90, 60), level).save(buffer, "png")
    return buffer.getvalue()
screen = widgets.Image(value=grey(0))
names = "drawing", "idle", "raising"
drawing, idle, raising = sliders = [widgets.IntSlider(description=name, max=5) for name in names]
def redraw(change):
    screen.value = grey(50 * drawing.value)
drawing.observe(redraw, "value")
raising.observe(lambda change: 1 / 0, "value")
widgets.VBox([*sliders, screen])"""


def cells(*sources: str) -> dict:
    kernel = {"name": "python3", "display_name": "Python 3"}
    return new_notebook(cells=[new_code_cell(source) for source in sources], metadata={"kernelspec": kernel})


def test_every_kind_of_fault_is_noticed(run_in_lab):
    """The last one raises: nothing after it is run."""
    start = "from IPython.display import HTML, Javascript, display"
    with run_in_lab("faults", cells(start, *FAULTS, "print('not run')")) as lesson:
        for told in FAULTS.values():
            assert lesson.within(10, lambda told=told: told in "\n".join(lesson.faults())), told
        assert not lesson.page.get_by_text("not run", exact=True).count()


def test_what_changes_what_does_not_and_a_callback_that_raises(run_in_lab):
    """JupyterLab shows what a callback raises nowhere but in its log."""
    progress = "from tqdm import tqdm\nfor _ in tqdm(range(30), 'steps'): pass"
    with run_in_lab("explorer", cells(progress, EXPLORER)) as lesson:
        assert "steps" in lesson.page.evaluate("() => window.stderr")
        assert lesson.faults() == []
        assert lesson.changes(lambda: lesson.slide("drawing", "ArrowRight", 3), least=0.99)
        assert not lesson.changes(lambda: lesson.slide("idle", "ArrowRight", 3), least=0, seconds=1)
        lesson.slide("raising", "ArrowRight", 1)
        lesson.at_rest()
        assert lesson.faults() == ["ZeroDivisionError: division by zero"]
