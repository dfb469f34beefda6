"""Execute the course's notebooks through papermill, one at a time, each into the results folder of its own run."""

import ast
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

from kdnb.errors import InputError
from kdnb.options import check_parameters, did_you_mean

# The parameters whose types are known beforehand.
CHECKED = ("PROFILE", "SEED", "DATA", "ENCODER_DATA", "RESULTS", "ABLATIONS")


@dataclass(frozen=True)
class Execution:
    """What became of one execution. ``run_folder`` is None when the notebook made none; ``error`` None when it ran."""

    name: str
    profile: str
    seed: int
    seconds: float
    notebook: Path
    run_folder: Path | None = None
    error: str | None = None


# --- finding ----------------------------------------------------------------------------------------------------


def notebooks_folder():
    """The repository's ``notebooks/``: below the current folder, the current folder itself, or beside the package."""
    for root in (Path.cwd(), Path.cwd().parent, Path(__file__).resolve().parents[1]):
        if (root / "notebooks").is_dir():
            return (root / "notebooks").resolve()
    raise InputError(f"no folder 'notebooks' in {Path.cwd()}; expected to be called from the root of the repository")


def find_notebooks(numbers=()):
    """Paths of the notebooks with these numbers ('03', '3' or a whole name), in order; all when there are none."""
    available = sorted(notebooks_folder().glob("[0-9][0-9]_*.ipynb"))
    if not numbers:
        return available
    found = []
    for number in numbers:
        wanted = number.removesuffix(".ipynb").zfill(2)
        matches = [path for path in available if wanted in (path.stem, path.stem[:2])]
        if not matches:
            names = ", ".join(path.stem for path in available) or "none at all"
            raise InputError(f"no notebook {number!r} in {notebooks_folder()}; expected one of: {names}")
        found += matches
    return found


def read_notebook(path):
    """Read a notebook of format 4; raises InputError when it is none."""
    try:
        with open(path, encoding="utf-8") as file:
            notebook = nbformat.read(file, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a notebook") from None
    except Exception as error:  # nbformat walks through whatever JSON it finds, and fails in as many ways
        raise InputError(f"{path} is not a notebook: {str(error).splitlines()[0][:120]}") from None
    return notebook


# --- parameters -------------------------------------------------------------------------------------------------


def parameter_names(notebook):
    """Names assigned in the cell tagged ``parameters``, in order; [] without such a cell."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            try:
                statements = ast.parse(cell.source).body
            except SyntaxError as error:
                raise InputError(
                    f"the cell tagged 'parameters' is not Python, line {error.lineno}: {error.msg}; "
                    "expected lines such as SEED = 0"
                ) from None
            targets = [
                target
                for s in statements
                if isinstance(s, (ast.Assign, ast.AnnAssign))
                for target in (s.targets if isinstance(s, ast.Assign) else [s.target])
            ]
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def parse_parameter(name, text):
    """A ``-p NAME VALUE`` of the command line: VALUE is a YAML scalar; paths become absolute, from where you stand."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if name in ("DATA", "ENCODER_DATA", "RESULTS") and isinstance(value, str):
        value = str(Path(value).expanduser().absolute())
    return value


def plan(paths, profile, seeds, results, extra):
    """Check everything before anything runs; returns a list of (path, parameters), one per notebook and seed.

    ``extra`` are the user's own parameters; each must exist in every notebook. PROFILE, SEED and RESULTS are left
    out for a notebook that does not have them.
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
            check_parameters(**{name: value for name, value in parameters.items() if name in CHECKED})
            if (path, parameters) not in steps:  # a notebook without SEED runs once, -p SEED 3 too
                steps.append((path, parameters))
    return steps


# --- executing --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_kernel():
    """Make 'python3' mean the Python that is running now, whatever other kernels the user has installed."""
    # only critical messages: a kernel on a local socket warns of its missing encryption in every terminal
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


def execute(path, parameters, results, timeout=None):
    """Execute one notebook with these parameters, with a progress bar; returns an ``Execution``, also when it fails.

    The notebook itself makes its run folder in ``results``; the executed copy ends there as ``notebook.ipynb``, or
    as ``results/failed_<name>_<profile>_s<seed>.ipynb``. ``timeout``: seconds one cell may take, None for no limit.
    The kernel's working folder is the notebook's own, as in JupyterLab.
    """
    import papermill

    path, results = Path(path).resolve(), Path(results).absolute()
    read_notebook(path)
    _make_folder(results)
    profile, seed = parameters.get("PROFILE", "lite"), parameters.get("SEED", 0)
    label = f"{path.stem}_{profile}_s{seed}"
    executing = results / f".executing_{label}_{os.getpid()}.ipynb"
    before, start, error = set(_run_folders(results, label)), time.perf_counter(), None
    print(f"{path.stem}: profile {profile}, seed {seed}", flush=True)
    try:
        with own_kernel():
            papermill.execute_notebook(
                _literal(path),
                _literal(executing),
                parameters,
                kernel_name="python3",
                language="python",
                cwd=str(path.parent),
                execution_timeout=timeout,
                start_timeout=120,
            )
    except papermill.PapermillExecutionError as problem:
        error = _describe(problem)
    except (RuntimeError, TimeoutError) as problem:  # the kernel died, or a cell took longer than `timeout`
        error = f"{type(problem).__name__}: {problem}".splitlines()[0]
    except BaseException:
        executing.unlink(missing_ok=True)
        raise
    seconds = time.perf_counter() - start
    made = [folder for folder in _run_folders(results, label) if folder not in before]
    run_folder = made[-1] if made else None
    if error:
        target = results / f"failed_{label}.ipynb"
    else:
        target = run_folder / "notebook.ipynb" if run_folder else results / f"executed_{label}.ipynb"
    os.replace(executing, target)
    return Execution(path.stem, profile, seed, seconds, target, run_folder, error)


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"results folder {str(folder)!r} is a file, expected a folder") from None


def _run_folders(results, label):
    """Run folders of one notebook, profile and seed; their names sort by time."""
    return sorted(folder for folder in Path(results).glob(f"result_*_{label}") if folder.is_dir())


def _literal(path):
    """papermill fills {names} into paths; a folder's own braces are to stay."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _describe(problem, n_lines=12):
    """The end of the traceback without colours, and ``ename: evalue`` as its last line."""
    last = f"{problem.ename}: {problem.evalue}".strip()
    if problem.ename == "InputError":
        return last  # says everything there is to say
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(problem.traceback)).rstrip()
    if text.endswith(last):
        text = text[: -len(last)].rstrip()
    return "\n".join([*text.splitlines()[-n_lines:], last])
