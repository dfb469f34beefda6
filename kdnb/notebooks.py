"""Execute the course's notebooks with papermill, one at a time; each makes the results folder of its own run."""

import ast
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from kdnb.errors import InputError
from kdnb.options import NOT_YAML, NOTHING, check_parameters, course_folder, did_you_mean, is_checked, is_path
from kdnb.run import NOTED


@dataclass(frozen=True)
class Execution:
    """The outcome of one execution.

    Attributes:
        seconds: wall-clock time.
        notebook: the executed copy.
        run_folder: None if the notebook made none.
        error: the end of the traceback, None if the notebook ran to its end.
    """

    name: str
    profile: str
    seed: int
    seconds: float
    notebook: Path
    run_folder: Path | None = None
    error: str | None = None


# --- finding ----------------------------------------------------------------------------------------------------


def notebooks_folder() -> Path:
    """The course's ``notebooks/``, see ``course_folder``. Raises InputError without one."""
    folder = course_folder("notebooks", __file__)
    if folder is None:
        raise InputError(
            f"no folder 'notebooks' of the course in {Path.cwd()}; run kdnb from the root of the repository"
        )
    return folder


def find_notebooks(numbers: Iterable[str] = ()) -> list[Path]:
    """Paths of the notebooks with these numbers ('03', '3' or a full name), in this order; without numbers, of all."""
    available = sorted(notebooks_folder().glob("[0-9][0-9]_*.ipynb"))
    if not numbers:
        return available
    paths = []
    for number in numbers:
        wanted = number.removesuffix(".ipynb").zfill(2)
        matches = [path for path in available if wanted in (path.stem, path.stem[:2])]
        if not matches:
            names = ", ".join(path.stem for path in available) or "none at all"
            raise InputError(f"no notebook {number!r} in {notebooks_folder()}; expected one of: {names}")
        paths += matches
    return paths


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook of format 4; raises InputError if the file is not one."""
    try:
        with open(path, encoding="utf-8") as file:
            notebook = nbformat.read(file, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a notebook") from None
    except Exception as error:  # nbformat raises many types on malformed JSON
        raise InputError(f"{path} is not a notebook: {str(error).splitlines()[0][:120]}") from None
    return notebook


# --- parameters -------------------------------------------------------------------------------------------------


def parameter_names(notebook: NotebookNode) -> list[str]:
    """Names assigned in the cell tagged ``parameters``, in order; [] without such a cell."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            return _assigned_names(cell.source)
    return []


def _assigned_names(source: str) -> list[str]:
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line, reason = getattr(error, "lineno", None) or 1, getattr(error, "msg", None) or error
        where = f"the cell tagged 'parameters' is not Python, line {line}: {reason}"
        raise InputError(f"{where}; expected lines such as SEED = 0") from None
    targets = []
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return [target.id for target in targets if isinstance(target, ast.Name)]


def parse_parameter(name: str, text: str) -> Any:
    """The VALUE of ``-p NAME VALUE``, a YAML scalar. A path is taken as it stands ("null": None) and becomes absolute,
    relative to the current folder: YAML would cut "kitti #2" and turn 2011_09_26 into a number."""
    if is_path(name):
        return None if text in NOTHING else str(Path(os.path.expanduser(text)).absolute())
    try:
        return yaml.safe_load(text)
    except NOT_YAML:
        return text


def plan(
    paths: Iterable[Path], profile: str, seeds: Iterable[int], results: str | Path, extra: dict[str, Any]
) -> list[tuple[Path, dict[str, Any]]]:
    """Check all parameters before anything runs; returns (path, parameters) for each notebook and seed.

    ``extra`` are the user's own parameters; each must exist in all notebooks. A notebook gets PROFILE, SEED and
    RESULTS if it has them. Raises InputError.
    """
    steps = []
    for path in paths:
        names = parameter_names(read_notebook(path))
        for name in extra:
            if name not in names:
                raise InputError(f"{path.name} has no parameter {name!r}{did_you_mean(name, names)}")
        for seed in seeds:
            own = {"PROFILE": profile, "SEED": seed, "RESULTS": str(Path(results).absolute())}
            parameters = {**{name: value for name, value in own.items() if name in names}, **extra}
            check_parameters(**{name: value for name, value in parameters.items() if is_checked(name)})
            if (path, parameters) not in steps:  # one run where seeds make no difference
                steps.append((path, parameters))
    return steps


# --- executing --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_kernel() -> Iterator[None]:
    """Within the block the kernel 'python3' is the Python that is running now, whatever kernels are installed."""
    # only critical messages: a kernel on a local socket warns that it is not encrypted
    command = [sys.executable, "-m", "ipykernel_launcher", "--log-level=CRITICAL", "-f", "{connection_file}"]
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory(prefix="kdnb_kernel_") as folder:
        spec = Path(folder) / "kernels" / "python3" / "kernel.json"
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
        os.environ["JUPYTER_PATH"] = os.pathsep.join([folder, before] if before else [folder])  # searched first
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


@contextlib.contextmanager
def noted_folders() -> Iterator[Path]:
    """Within the block, processes that are started note the folders of their runs in this file, one a line."""
    before = os.environ.get(NOTED)
    with tempfile.TemporaryDirectory(prefix="kdnb_runs_") as folder:
        os.environ[NOTED] = str(Path(folder) / "folders.txt")
        try:
            yield Path(os.environ[NOTED])
        finally:
            if before is None:
                del os.environ[NOTED]
            else:
                os.environ[NOTED] = before


def execute(path: Path, parameters: dict[str, Any], results: str | Path, timeout: int | None = None) -> Execution:
    """Execute one notebook with these parameters, with a progress bar; returns an ``Execution`` also if it fails.

    The notebook itself makes its run folder in ``results``, and notes which, so that others may run there too; the
    executed copy becomes ``notebook.ipynb`` in it, or ``results/failed_<name>_<profile>_s<seed>.ipynb``. The kernel's
    working folder is the notebook's, as in JupyterLab.

    Args:
        timeout: seconds that one cell may take, None for no limit.
    """
    import papermill

    path, results = Path(path).resolve(), Path(results).absolute()
    read_notebook(path)
    _make_folder(results)
    profile, seed = parameters.get("PROFILE", "lite"), parameters.get("SEED", 0)
    label = f"{path.stem}_{profile}_s{seed}"
    executing = results / f".executing_{label}_{os.getpid()}.ipynb"
    start, error = time.perf_counter(), None
    print(f"{path.stem}: profile {profile}, seed {seed}", flush=True)
    try:
        with own_kernel(), noted_folders() as noted:
            try:
                kernel = {"kernel_name": "python3", "language": "python", "cwd": str(path.parent), "start_timeout": 120}
                source, copy = _escape_braces(path), _escape_braces(executing)
                papermill.execute_notebook(source, copy, parameters, execution_timeout=timeout, **kernel)
            finally:
                run_folder = _own_folder(noted, results, label)
    except papermill.PapermillExecutionError as problem:
        error = _describe(problem)
    except (RuntimeError, TimeoutError) as problem:  # the kernel died, or a cell took longer than `timeout`
        error = f"{type(problem).__name__}: {problem}".splitlines()[0]
    except BaseException:
        executing.unlink(missing_ok=True)
        raise
    seconds = time.perf_counter() - start
    if run_folder:
        print(f"{path.stem}: its run folder is {run_folder}", flush=True)
    if error:
        target = results / f"failed_{label}.ipynb"
    else:
        target = run_folder / "notebook.ipynb" if run_folder else results / f"executed_{label}.ipynb"
    os.replace(executing, target)
    return Execution(path.stem, profile, seed, seconds, target, run_folder, error)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"results folder {str(folder)!r} is a file, expected a folder") from None


def _own_folder(noted: Path, results: Path, label: str) -> Path | None:
    """The last folder that a notebook noted as that of its run, if it made one."""
    folders = map(Path, noted.read_text(encoding="utf-8").splitlines() if noted.exists() else [])
    made = [folder for folder in folders if folder.name.startswith("result_") and folder.name.endswith(f"_{label}")]
    made = [results / folder.name for folder in made if (results / folder.name).is_dir()]
    return made[-1] if made else None


def _escape_braces(path: Path) -> str:
    """papermill formats paths with the parameters; a folder's own braces must stay."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _describe(problem: Any, n_lines: int = 12) -> str:
    """The last lines of the traceback without colours, then ``ename: evalue``; only that for an InputError."""
    last = f"{problem.ename}: {problem.evalue}".strip()
    if problem.ename == "InputError":
        return last
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(problem.traceback)).rstrip()
    if text.endswith(last):
        text = text[: -len(last)].rstrip()
    return "\n".join([*text.splitlines()[-n_lines:], last])
