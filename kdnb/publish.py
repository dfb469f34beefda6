"""Put the outputs of an executed notebook into the committed one, cleaned of everything that belongs to one machine;
and check that a committed notebook has the shape of a lesson and that its outputs belong to its code."""

import copy
import hashlib
import json
import re
import statistics
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.notebooks import find_notebooks, read_notebook
from kdnb.viz.strip import write_strip

MAX_BYTES = 1_500_000
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"\d+%\||\d+it \[|\d(it|s)/(s|it)\b")  # the bars of tqdm
Places = list[tuple[re.Pattern[str], str]]  # machine-specific paths and what replaces them


def code_hash(notebook: NotebookNode) -> str:
    """SHA-256 over what outputs depend on: the sources of the code cells, except the set-up cell and the one that
    papermill injects, and the ``lite`` settings of the projects they import."""
    sources = [
        cell.source
        for cell in _own_cells(notebook)
        if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", [])
    ]
    settings = [json.dumps(lite, sort_keys=True) for lite in _lite_settings(sources)]
    return hashlib.sha256("\0".join(sources + settings).encode("utf-8")).hexdigest()


def _lite_settings(sources: list[str]) -> list[dict]:
    """The block ``lite`` over ``common``, as written, of the settings of all projects that the cells import."""
    names = dict.fromkeys(re.findall(r"\bkdnb\.projects(?:\.| import )(\w+)", "\n".join(sources)))
    blocks = [yaml.safe_load(text) for text in map(project_settings, names) if text]
    return [{**(block.get("common") or {}), **block["lite"]} for block in blocks]


def project_settings(name: str) -> str | None:
    """The text of a project's ``settings.yaml``, None if it has none."""
    source = resources.files("kdnb") / "projects" / name / "settings.yaml"
    return source.read_text(encoding="utf-8") if source.is_file() else None


def _includes(settings: Any, wanted: Any) -> bool:
    """Whether a run's settings have all values that a file names; what the file leaves out has its default."""
    if isinstance(wanted, dict):
        return isinstance(settings, dict) and all(_includes(settings.get(key), one) for key, one in wanted.items())
    return settings == wanted


def publish(number: str, run_folder: str | Path | None = None, results: str | Path = "results") -> Path:
    """Write the outputs of an executed run into the committed notebook ``number``; returns its path.

    The run's ``figures/cover.png``, if it made one, becomes ``images/<notebook>.png``, the image at the top, and a
    piece of it goes into the README's strip.

    Args:
        run_folder: by default the newest lite run in ``results``. It must have run the code of the committed notebook
            with today's settings.

    Raises:
        InputError: it did not, an output is an error, or the notebook would have 1.5 MB or more.
    """
    path = find_notebooks([number])[0]
    folder = Path(run_folder) if run_folder else _newest_lite_run(path.stem, Path(results))
    executed = read_notebook(folder / "notebook.ipynb")
    notebook = copy.deepcopy(read_notebook(path))
    _copy_outputs(executed, notebook, path, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    rerun = f"run it again: kdnb run {path.stem[:2]} --profile lite"
    if config["profile"] == "lite" and not all(_includes(config["settings"], lite) for lite in _lite_settings(sources)):
        raise InputError(f"{folder} was made with other settings than lite has now; {rerun}")
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("papermill", None)
    source = {"profile": config["profile"], "seed": config["seed"]}
    notebook.metadata["kdnb"] = {"code_sha256": code_hash(notebook), **source}
    text = nbformat.writes(notebook)
    size = len(text.encode("utf-8"))
    if size >= MAX_BYTES:
        largest = f"the largest output is in cell {_largest_cell(notebook)}"
        raise InputError(f"{path.name} would have {size / 1e6:.2f} MB, expected less than 1.5 MB; {largest}")
    cover = folder / "figures" / "cover.png"
    if cover.exists():
        (path.parent / "images").mkdir(exist_ok=True)
        atomic_write(path.parent / "images" / f"{path.stem}.png", cover.read_bytes())
        write_strip(path.parent / "images", cover_pieces())
    atomic_write(path, text + "\n")
    return path


def cover_pieces() -> dict[str, tuple[str, tuple[float, float, float, float]]]:
    """Notebook -> its label in the README's strip and the piece of its cover shown there: left, top, right, bottom as
    shares of the cover."""
    from kdnb.projects import find_projects, scoreboard

    pieces = {name: kind.cover for name, kind in find_projects().items()}
    return dict(sorted({**pieces, scoreboard.PROJECT: scoreboard.COVER}.items()))


def _newest_lite_run(name: str, results: Path) -> Path:
    folders = sorted(path.parent for path in results.glob(f"result_*_{name}_lite_s*/notebook.ipynb"))
    if not folders:
        command = f"kdnb run {name[:2]} --profile lite"
        raise InputError(f"no lite run of {name} in {results}; expected one, make it with: {command}")
    return folders[-1]


def _own_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The author's cells, without those that papermill adds."""
    added = {"injected-parameters", "papermill-error-cell-tag"}
    return [cell for cell in notebook.cells if not added & set(cell.metadata.get("tags", []))]


def _copy_outputs(executed: NotebookNode, notebook: NotebookNode, path: Path, folder: Path) -> None:
    """Copy outputs from ``executed``; everything else in ``notebook`` stays, also prose that was edited since.

    Execution counts start at 1.
    """
    cells = _own_cells(executed)
    _require_same_code(cells, notebook.cells, path, folder)
    places = _places(path, folder)
    count = 0
    for number, (theirs, ours) in enumerate(zip(cells, notebook.cells, strict=True), start=1):
        if ours.cell_type != "code":
            continue
        for output in theirs.outputs:
            if output.output_type == "error":
                where = f"cell {number} of {folder / 'notebook.ipynb'}"
                raise InputError(f"{where} ended with {output.ename}, expected a run without errors")
        count += bool(ours.source.strip())
        ours.execution_count = count if ours.source.strip() else None
        cleaned = (_cleaned(output, places, count) for output in _merged(theirs.outputs))
        ours.outputs = [_as_displayed(output) for output in _merged(output for output in cleaned if output)]
        for noise in ("papermill", "execution", "ExecuteTime"):
            ours.metadata.pop(noise, None)


def _require_same_code(theirs: list[NotebookNode], ours: list[NotebookNode], path: Path, folder: Path) -> None:
    executed, rerun = folder / "notebook.ipynb", f"run it again: kdnb run {path.stem[:2]} --profile lite"
    for number, (a, b) in enumerate(zip(theirs, ours, strict=False), start=1):
        if a.cell_type != b.cell_type or (b.cell_type == "code" and a.source != b.source):
            raise InputError(
                f"cell {number} of {executed} is not the one in {path.name}; expected the same code, {rerun}"
            )
    if len(theirs) != len(ours):
        raise InputError(f"{executed} has {len(theirs)} cells, expected the {len(ours)} of {path.name}; {rerun}")


# --- cleaning ---------------------------------------------------------------------------------------------------


def _places(path: Path, folder: Path) -> Places:
    """This machine's absolute paths, longest first."""
    root = path.resolve().parents[1]
    named = {
        str(folder.absolute().parent): "results",
        str(folder.resolve().parent): "results",
        str(root): ".",
        sys.prefix: "<python>",
        sys.base_prefix: "<python>",
        str(Path.home()): "~",
        str(Path.cwd()): ".",
    }
    pairs = [(re.compile(r"[^\s:]*ipykernel_\d+/\d+\.py"), "<cell>")]
    for place in sorted(named, key=len, reverse=True):
        if len(Path(place).parts) > 1 and place not in ("/usr", "/usr/local"):
            pairs.append((re.compile(rf"(?<![\w.-]){re.escape(place)}(?![\w-])"), named[place]))
    return pairs


def _cleaned(output: NotebookNode, places: Places, count: int) -> NotebookNode | None:
    """One output without progress bars, dead widgets and absolute paths; None when nothing is left."""
    output = copy.deepcopy(output)
    if output.output_type == "stream":
        output.text = _without_paths(_without_progress(output.text), places)
        return output if output.text.strip() else None
    data = dict(output.data)
    if data.pop(WIDGET, None) is not None and set(data) <= {"text/plain"}:
        return None
    texts = {mime for mime in data if not mime.startswith("image/") or mime == "image/svg+xml"}
    data |= {mime: _without_paths(data[mime], places) for mime in texts}
    output.data = nbformat.from_dict(data)
    if output.output_type == "execute_result":
        output.execution_count = count
    return output


def _merged(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of the same stream: a kernel sends printed text in pieces of any size."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == merged[-1].output_type == "stream" and output.name == merged[-1].name:
            merged[-1].text += output.text
        else:
            merged.append(copy.deepcopy(output))
    return merged


def _without_progress(text: str) -> str:
    """Without tqdm's bars: pieces that end in a carriage return or a new line and look like a bar."""
    return "".join(piece for piece in re.split(r"(?<=[\r\n])", text) if not PROGRESS.search(piece))


def _as_displayed(output: NotebookNode) -> NotebookNode:
    """A stream as a terminal shows it in the end: of each line what follows its last carriage return."""
    if output.output_type == "stream":
        output.text = re.sub(r"[^\n]*\r(?=[^\n])", "", output.text).replace("\r", "")
    return output


def _without_paths(value: Any, places: Places) -> Any:
    if isinstance(value, str):
        for pattern, replacement in places:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {key: _without_paths(item, places) for key, item in value.items()}
    return [_without_paths(item, places) for item in value] if isinstance(value, list) else value


def _largest_cell(notebook: NotebookNode) -> int:
    sizes = [len(str(cell.get("outputs", ""))) for cell in notebook.cells]
    return sizes.index(max(sizes)) + 1


# --- shape ------------------------------------------------------------------------------------------------------


def check_shape(notebook: NotebookNode, number: str = "NN") -> list[str]:
    """The problems of a committed notebook as sentences, [] without any.

    Expected are 25-45 cells; code cells of at most 20 lines, median at most 8 without the shared set-up cell; 35-75 %
    of the characters in prose; one cell tagged ``parameters``; outputs of this code, without errors and widgets, below
    1.5 MB.
    """
    return _text_problems(notebook) + _output_problems(notebook, number)


def _text_problems(notebook: NotebookNode) -> list[str]:
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    own = [cell for cell in notebook.cells if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", [])]
    lines = [len(cell.source.splitlines()) for cell in own]
    share = sum(map(len, prose)) / max(1, sum(map(len, prose + code)))
    tagged = sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    problems = []
    if not 25 <= len(notebook.cells) <= 45:
        problems.append(f"{len(notebook.cells)} cells, expected 25 to 45")
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "code" and len(cell.source.splitlines()) > 20:
            problems.append(f"code cell {number} has {len(cell.source.splitlines())} lines, expected at most 20")
    if lines and statistics.median(lines) > 8:
        problems.append(f"code cells have a median of {statistics.median(lines):g} lines, expected at most 8")
    if not 0.35 <= share <= 0.75:
        problems.append(f"{100 * share:.0f} % of the characters are prose, expected 35 to 75 %")
    if tagged != 1:
        problems.append(f"{tagged} cells tagged 'parameters', expected 1")
    return problems


def _output_problems(notebook: NotebookNode, number: str) -> list[str]:
    renew = f"renew them: kdnb run {number} --profile lite && kdnb publish {number}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    outputs = [output for cell in code for output in cell.outputs]
    size = len(nbformat.writes(notebook).encode("utf-8"))
    problems = []
    if not outputs or any(cell.execution_count is None for cell in code):
        problems.append(f"code cells without outputs; {renew}")
    if any(output.output_type == "error" for output in outputs):
        problems.append(f"an output is an error; {renew}")
    if "widgets" in notebook.metadata or any(WIDGET in output.get("data", {}) for output in outputs):
        problems.append(f"widget state, which does nothing outside a running notebook; {renew}")
    if size >= MAX_BYTES:
        problems.append(f"{size / 1e6:.2f} MB, expected less than 1.5 MB")
    if notebook.metadata.get("kdnb", {}).get("code_sha256") != code_hash(notebook):
        problems.append(f"the outputs are not those of this code; {renew}")
    return problems
