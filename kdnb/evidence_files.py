"""The evidence that git keeps: small copies of finished runs in ``data/evidence``, and the README's table made of them.

A copy holds metrics.json, replicates.npz and config.yaml, without anything that belongs to one machine.
"""

import io
import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import yaml

from kdnb.errors import InputError
from kdnb.files import atomic_write, replace_folder
from kdnb.options import load_settings
from kdnb.report import EVIDENCE, Metrics, as_markdown, group_runs, markdown_table, read_run
from kdnb.run import to_json
from kdnb.tables import Groups, photo_table, run_notes

MAX_BYTES = 300_000  # of one run
START, END = "<!-- photographs: made by kdnb publish -->", "<!-- end of photographs -->"
ARMS = ("teacher", "baseline", "distilled", "baseline_matched", "few_labels_baseline", "few_labels_distilled")
PROVENANCE = ("kdnb", "python", "torch", "torchvision", "commit", "date", "settings_sha256", "data", "data_id")
PROVENANCE += ("cpus", "threads", "device")  # seconds and latency depend on them
METRICS = ("project", "profile", "seed", "primary", "higher_is_better", "roles", "teacher", "arms", "comparisons")
MACHINE = ("processes", "workers", "checkpoint_every")  # settings that change no number
ABSOLUTE = re.compile(r"(?<![\w.~])~?(?:/[\w.@+-]+){2,}/?")


# --- from a run to data/evidence --------------------------------------------------------------------------------


def keep(folders: Iterable[str | Path], root: Path, unfinished: bool = False) -> list[Path]:
    """Copy what git keeps of finished runs to ``root/data/evidence/<project>_<profile>_s<seed>/``; returns the folders.

    Of several runs of a project, profile and seed the newest counts, by its date. Nothing is written unless all are
    in order.

    Args:
        unfinished: also runs that lack some of their arms, which tables then show as dashes.

    Raises:
        InputError: a run that is not finished, one of profile smoke, one that is older than the published one, or one
            that would take more than 300 KB.
    """
    copies: dict[Path, dict[str, bytes]] = {}
    for run in sorted((_finished_run(folder, unfinished) for folder in folders), key=_date):
        target = root / EVIDENCE / f"{run.project}_{run.profile}_s{run.seed}"
        if (target / "metrics.json").exists() and _date(run) < _date(read_run(target)):
            raise InputError(f"{run.folder} is older than the published {target}; expected a newer run")
        copies[target] = _copy_of(run)
    for target, files in copies.items():
        replace_folder(target, files)
    return list(copies)


def _date(run: Metrics) -> str:
    return run.provenance.get("date", "")  # ISO 8601 in UTC, which sorts as text


def _finished_run(folder: str | Path, unfinished: bool) -> Metrics:
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder} has no config.yaml; expected the results folder of a run")
    if not (folder / "metrics.json").is_file():
        raise InputError(f"{folder} has no metrics.json: the run is not finished; go on with --run {folder}")
    run = read_run(folder)
    if run.profile == "smoke":
        raise InputError(f"{folder} is a run in profile smoke, in which nothing is learned; expected another profile")
    lacking = [arm for arm in _settings(folder).get("arms") or ARMS if not _has(run, arm)]
    if lacking and not unfinished:
        raise InputError(f"{folder} is not finished: it lacks the arm {lacking[0]!r}; go on with --run {folder}")
    return run


def _has(run: Metrics, arm: str) -> bool:
    return arm in run.arms or (run.folder / "arms" / f"{arm}.json").is_file()  # some arms have no primary score


def _config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def _settings(folder: Path) -> dict[str, Any]:
    return _config(folder).get("settings") or {}


def _copy_of(run: Metrics) -> dict[str, bytes]:
    """Name -> content of the files that git keeps; float32 moves no end of an interval by a millionth of itself."""
    saved = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    metrics = {name: saved[name] for name in METRICS if name in saved}
    metrics["command"] = command_of(run, _settings(run.folder))
    metrics["provenance"] = {name: run.provenance[name] for name in PROVENANCE if name in run.provenance}
    replicates = io.BytesIO()
    np.savez_compressed(replicates, **{name: one.astype(np.float32) for name, one in run.replicates.items()})
    files = {
        "metrics.json": (json.dumps(without_paths(metrics), indent=1, allow_nan=False) + "\n").encode(),
        "replicates.npz": replicates.getvalue(),
        "config.yaml": yaml.safe_dump(without_paths(_config(run.folder)), sort_keys=False).encode(),
    }
    size = sum(map(len, files.values()))
    if size > MAX_BYTES:
        raise InputError(f"{run.folder} would take {size / 1e3:.0f} KB in git, expected at most {MAX_BYTES / 1e3:.0f}")
    return files


def without_paths(value: Any) -> Any:
    """A JSON value in which only the last part of absolute paths is left."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(value).is_absolute():
            return kind(value).name
    return ABSOLUTE.sub(lambda path: Path(path[0]).name, value)


# --- how to make a run again ------------------------------------------------------------------------------------


def command_of(run: Metrics, settings: dict[str, Any]) -> str:
    """The command that makes a run again, but for its seed: with the settings that are not those of its profile, and
    with the ablations that it has."""
    from kdnb.projects import find_projects

    data = run.provenance.get("data", "drawn")
    kind = find_projects().get(run.project)
    if kind is None:
        place = "" if data == "drawn" else f" -p DATA {shlex.quote(data)}"
        return f"kdnb run {run.project[:2]} --profile {run.profile}{place}"
    words = ["python", "-m", kind.__module__.rpartition(".")[0], "--profile", run.profile]
    words += [] if data == "drawn" else ["--data", data]
    ours = to_json(load_settings(kind.settings_class, run.profile).model_dump(mode="json"))
    for name, value in settings.items():
        if name not in MACHINE and name in ours and ours[name] != value:
            words += ["--set", f"{name}={json.dumps(value)}"]
    extra = [name for name in kind.ablations if _has(run, name) and name not in settings.get("arms", ())]
    if extra and extra == list(kind.ablations):
        words.append("--ablations")
    elif extra:
        words += ["--stage", "all", *(word for name in extra for word in ("--stage", name))]
    return shlex.join(words)


def commands(groups: Groups) -> list[str]:
    """One command for all seeds that were made alike."""
    lines = []
    for runs in groups.values():
        for command in dict.fromkeys(run.command for run in runs):
            seeds = [str(run.seed) for run in runs if run.command == command]
            option = f" --seeds {','.join(seeds)}" if command.startswith("kdnb run") else ""
            lines.append(command + (option or "".join(f" --seed {seed}" for seed in seeds)))
    return lines


# --- tables -----------------------------------------------------------------------------------------------------


def photographs(groups: Groups) -> str:
    """What the README says between its markers about runs in profile photo; "" without any."""
    groups = {key: runs for key, runs in groups.items() if key[1] == "photo"}
    if not groups:
        return ""
    notes = [f"{key[0][:2]}: {note}" for key, runs in groups.items() for note in run_notes(runs)[1:]]
    if any(len(runs) == 1 for runs in groups.values()):
        notes.append("An interval of one seed says nothing about other seeds.")
    about = (
        "**On photographs**, with pretrained networks (profile `photo`), on test. Scores are means over seeds, the "
        "lowest and the highest below them;\ndifferences have their 95 % interval and verdict below them. "
        f"[All arms and intervals]({EVIDENCE.as_posix()}/README.md)."
    )
    again = "These commands train the networks of the table and write it again; `--data` takes the root of a download:"
    shell = "\n".join([*commands(groups), "kdnb publish --evidence results/result_*_photo_s*"])
    parts = [about, markdown_table(*photo_table(groups)).strip(), *notes, again, f"```sh\n{shell}\n```"]
    return "\n\n".join(parts)


def with_photographs(readme: str, block: str) -> str:
    """The README with ``block`` between its markers; raises InputError if it has none."""
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise InputError(f"README.md lacks the lines {START} and {END}; expected both, in this order")
    return f"{before}{start}\n" + (f"\n{block}\n\n" if block else "") + f"{end}{after}"


def evidence(root: Path) -> Groups:
    """The runs in ``root/data/evidence``, {} without any."""
    folders = [path.parent for path in (root / EVIDENCE).glob("[0-9]*/metrics.json")]
    return group_runs(folders)


def write_tables(root: Path) -> list[Path]:
    """Write the tables of all published runs: the README's block, and all arms to ``data/evidence/README.md``."""
    groups = evidence(root)
    readme = root / "README.md"
    text = with_photographs(readme.read_text(encoding="utf-8"), photographs(groups))
    paths = [atomic_write(root / EVIDENCE / "README.md", as_markdown(groups))] if groups else []
    return [*paths, atomic_write(readme, text)]
