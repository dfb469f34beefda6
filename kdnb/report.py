"""Merge the runs of several seeds into tables, as Markdown and HTML; find the runs that the course publishes."""

from __future__ import annotations

import html
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic

from kdnb.errors import InputError
from kdnb.evidence import Comparison
from kdnb.files import atomic_write
from kdnb.options import course_folder
from kdnb.tables import Groups, arms_table, comparisons_table, course_notes, course_table, run_notes, seeds_table

if TYPE_CHECKING:
    import pandas as pd

EVIDENCE = Path("data") / "evidence"  # below the course's folder: what `kdnb publish --evidence` keeps of runs
# what numpy and zipfile raise on damaged files
NO_ARRAYS = (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, RuntimeError)
NO_ARRAYS += (MemoryError, SyntaxError, TypeError, AttributeError, ArithmeticError)
Section = tuple[str, list[str], list[tuple[str, list[str], list[list[str]]]]]  # title, notes, (caption, header, rows)


class _Comparison(pydantic.BaseModel):
    delta: float | None
    ci95: tuple[float | None, float | None]
    verdict: Literal["BEATS", "LOSES", "INCONCLUSIVE"]


class Metrics(pydantic.BaseModel):
    """A metrics.json with its folder and the bootstrap replicates of its comparisons.

    Attributes:
        teacher: the arm that teaches "distilled".
        roles: arm -> what figures show it as, see ``kdnb.viz.style.declare_roles``.
        command: makes the run again, but for its seed; only published runs have it.
    """

    project: str
    profile: str
    seed: int
    primary: str
    higher_is_better: bool
    arms: dict[str, dict[str, Any]]
    comparisons: dict[str, _Comparison]
    roles: dict[str, str] = {}
    teacher: str = "teacher"
    command: str = ""
    provenance: dict[str, Any] = {}
    folder: Path
    replicates: dict[str, Any] = {}

    def comparison(self, name: str) -> Comparison:
        """The named comparison with its replicates, as the run wrote it."""
        saved = self.comparisons[name]
        delta, (low, high) = _number(saved.delta), map(_number, saved.ci95)
        return Comparison(delta, (low, high), saved.verdict, self.replicates[name], self.higher_is_better, (delta,))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


# --- reading ----------------------------------------------------------------------------------------------------


def read_run(folder: str | Path) -> Metrics:
    """Read metrics.json and replicates.npz of one run folder; raises InputError naming what is missing or wrong."""
    folder = Path(folder)
    path = folder / "metrics.json"
    if not path.is_file():
        raise InputError(f"{folder} has no metrics.json; expected the results folder of a finished run")
    try:
        metrics = Metrics(**{**json.loads(path.read_text(encoding="utf-8")), "folder": folder})
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is malformed: {first_problem(error)}") from None
    for name, numbers in metrics.arms.items():
        if metrics.primary not in numbers:
            raise InputError(f"{path} is malformed: arm {name!r} lacks the primary metric {metrics.primary!r}")
    try:
        with np.load(folder / "replicates.npz", allow_pickle=False) as file:
            metrics.replicates = {name: file[name].astype(float) for name in metrics.comparisons}
    except NO_ARRAYS as error:
        fault = "does not hold the replicates of the comparisons in metrics.json"
        raise InputError(f"{folder / 'replicates.npz'} {fault}: {first_problem(error)}") from None
    return metrics


def first_problem(error: Exception) -> str:
    """One line: the field and message of a pydantic error, or the first line of any other error."""
    if isinstance(error, pydantic.ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _run_folders(folders: Iterable[str | Path]) -> Iterator[Path]:
    """Run folders among ``folders``; a folder that holds run folders stands for the finished ones in it.

    07's runs are skipped: they hold a report of the other runs. Published runs, "03_voc_defeat_photo_s0", count too.
    """
    for folder in map(Path, folders):
        if (folder / "scoreboard.md").is_file():
            continue
        named = ("result_*", "[0-9][0-9]_*_s*[0-9]")
        inside = sorted(path.parent for name in named for path in folder.glob(f"{name}/metrics.json"))
        yield from inside if inside and not (folder / "metrics.json").exists() else [folder]


def group_runs(folders: Iterable[str | Path]) -> dict[tuple[str, str, str], list[Metrics]]:
    """Runs that may be merged: {(project, profile, data): [one per seed]}; of two runs of a seed the newer counts.

    Data sets whose folders share a name stay apart, as "VOCdevkit (1a2b3c4d)". Runs of before these digits were kept
    count as the only data set of that name, if there is one.
    """
    runs = sorted(map(read_run, _run_folders(folders)), key=lambda run: run.folder.name)
    ids: dict[tuple[str, str, str], set[str]] = {}
    for run in runs:
        ids.setdefault(_group(run), set()).update([run.provenance["data_id"]] if run.provenance.get("data_id") else [])
    groups: dict[tuple[str, str, str], dict[int, Metrics]] = {}
    for run in runs:
        project, profile, data = _group(run)
        own = run.provenance.get("data_id")
        if own and len(ids[project, profile, data]) > 1:
            data = f"{data} ({own[:8]})"
        groups.setdefault((project, profile, data), {})[run.seed] = run
    return {key: [seeds[seed] for seed in sorted(seeds)] for key, seeds in sorted(groups.items())}


def _group(run: Metrics) -> tuple[str, str, str]:
    return run.project, run.profile, str(run.provenance.get("data", "drawn"))


# --- published runs ---------------------------------------------------------------------------------------------


def evidence_folder() -> Path:
    """The course's ``data/evidence``, see ``course_folder``. Raises InputError if there is none."""
    folder = course_folder(str(EVIDENCE), __file__)
    if folder is None:
        raise InputError(f"no folder {EVIDENCE} in {Path.cwd()}; expected the published runs in the course's folder")
    return folder


def published(number: str, profile: str = "photo") -> list[Metrics]:
    """The published runs of a project ("03", or its full name) in a profile, one per seed. Raises InputError if there
    are none, or if they are on several data sets."""
    folder, name = evidence_folder(), f"{number.zfill(2)}_*" if number.isdigit() else number
    groups = group_runs(path.parent for path in folder.glob(f"{name}_{profile}_s*[0-9]/metrics.json"))
    if not groups:
        raise InputError(f"{folder} holds no run of {number} in profile {profile}; expected one for each seed")
    if len(groups) > 1:
        data = ", ".join(data for _, _, data in groups)
        raise InputError(f"{folder} holds runs of {number} in profile {profile} on {data}; expected one data set")
    return next(iter(groups.values()))


def three_seeds(number: str, profile: str = "photo") -> pd.DataFrame:
    """The published scores and gains of a project, for a notebook: a row each, a column for each seed, then the mean,
    the interval and the verdict. Raises InputError as ``published`` does."""
    import pandas as pd

    header, rows = seeds_table(published(number, profile))
    return pd.DataFrame(rows, columns=header).set_index("").rename_axis(None)


# --- writing ----------------------------------------------------------------------------------------------------


def report(folders: Iterable[str | Path], out: str | Path) -> tuple[Path, Path]:
    """Merge runs into ``<out>.md`` and ``<out>.html``; returns the two paths.

    Projects, profiles and data sets stay apart; of several, a table over all of them comes first.

    Args:
        folders: run folders, or folders that hold run folders.
    """
    sections = _sections(group_runs(folders))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return (
        atomic_write(out.with_name(out.name + ".md"), _markdown(sections)),
        atomic_write(out.with_name(out.name + ".html"), _html(sections)),
    )


def as_markdown(groups: Groups) -> str:
    """What ``report`` writes to its ``.md``."""
    return _markdown(_sections(groups))


def _sections(groups: Groups) -> list[Section]:
    sections: list[Section] = []
    if len(groups) > 1:
        sections.append(("All projects", course_notes(groups), [("Scores, verdicts and costs", *course_table(groups))]))
    for (project, profile, data), runs in groups.items():
        source = "rendered data" if data == "drawn" else f"data {data}"
        tables = [("Arms", *arms_table(runs)), ("Comparisons", *comparisons_table(runs))]
        sections.append((f"{project}, {profile}, {source}", run_notes(runs), tables))
    return sections


def _markdown(sections: list[Section]) -> str:
    parts = ["# Results\n"]
    for title, notes, tables in sections:
        parts += [f"## {title}\n", *(note + "\n" for note in notes)]
        parts += [markdown_table(header, rows) for _, header, rows in tables]
    return "\n".join(parts)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """The first column to the left, numbers to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a;
background:#fff}.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;
font-weight:600;padding:.3rem 0}th,td{padding:.3rem .7rem;border-bottom:1px solid #767676;text-align:right;
white-space:nowrap}th:first-child{text-align:left}thead th{border-bottom:2px solid #1a1a1a}"""


def _html(sections: list[Section]) -> str:
    body = []
    for title, notes, tables in sections:
        body.append(f"<h2>{html.escape(title)}</h2>" + "".join(f"<p>{html.escape(note)}</p>" for note in notes))
        for caption, header, rows in tables:
            body.append(_html_table(f"{caption}: {title}", header, rows))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>kdnb results</title>'
        f"<style>{STYLE}</style></head><body><main><h1>Results</h1>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def _html_table(caption: str, header: list[str], rows: list[list[str]]) -> str:
    """A table for screen readers: with caption, column and row headers; scrollable with the keyboard."""
    caption = html.escape(caption)
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    lines = ""
    for first, *others in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
        lines += f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>\n'
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>"
    )
