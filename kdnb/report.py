"""Merge the runs of several seeds into tables people read: Markdown, HTML, and the summary at the end of a run."""

import html
import json
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from kdnb.errors import InputError
from kdnb.evidence import Comparison
from kdnb.files import atomic_write
from kdnb.tables import (
    arms_table,
    comparisons_table,
    course_notes,
    course_table,
    run_notes,
)


class _Comparison(pydantic.BaseModel):
    delta: float | None
    ci95: tuple[float | None, float | None]
    verdict: Literal["BEATS", "LOSES", "INCONCLUSIVE"]


class Metrics(pydantic.BaseModel):
    """A metrics.json, and with it the folder it lies in and its replicates."""

    project: str
    profile: str
    seed: int
    primary: str
    higher_is_better: bool
    arms: dict[str, dict[str, Any]]
    comparisons: dict[str, _Comparison]
    provenance: dict[str, Any] = {}
    folder: Path
    replicates: dict[str, Any] = {}

    def comparison(self, name):
        """The named comparison with its replicates, as it was when the run wrote it."""
        found = self.comparisons[name]
        low_high = tuple(_number(x) for x in found.ci95)
        return Comparison(
            _number(found.delta),
            low_high,
            found.verdict,
            self.replicates[name],
            self.higher_is_better,
            (_number(found.delta),),
        )


def _number(value):
    return float("nan") if value is None else float(value)


# --- reading ----------------------------------------------------------------------------------------------------


def read_run(folder):
    """Read metrics.json and replicates.npz of one run folder; raises InputError naming what is missing or wrong."""
    folder = Path(folder)
    path = folder / "metrics.json"
    if not path.is_file():
        raise InputError(f"{folder} has no metrics.json; expected the results folder of a finished run")
    try:
        metrics = Metrics(**{**json.loads(path.read_text(encoding="utf-8")), "folder": folder})
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is malformed: {first_problem(error)}") from None
    for name, numbers in metrics.arms.items():
        if metrics.primary not in numbers:
            raise InputError(f"{path} is malformed: arm {name!r} lacks the primary metric {metrics.primary!r}")
    try:
        with np.load(folder / "replicates.npz", allow_pickle=False) as file:
            metrics.replicates = {name: file[name] for name in metrics.comparisons}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{folder / 'replicates.npz'} does not hold the replicates of the comparisons in metrics.json: {error}"
        ) from None
    return metrics


def first_problem(error):
    """One line: where a pydantic model was not satisfied and why, or the first line of any other error."""
    if isinstance(error, pydantic.ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return str(error).splitlines()[0]


def _run_folders(folders):
    """Run folders among ``folders``; a folder that holds run folders stands for the finished ones in it.

    07's own are passed over: what they hold is such a report, of the other runs.
    """
    for folder in map(Path, folders):
        if (folder / "scoreboard.md").is_file():
            continue
        inside = sorted(path.parent for path in folder.glob("result_*/metrics.json"))
        yield from inside if inside and not (folder / "metrics.json").exists() else [folder]


def group_runs(folders):
    """Runs that may be merged: {(project, profile, data): [one per seed]}; of two runs of a seed the newer counts."""
    found = {}
    for run in sorted(map(read_run, _run_folders(folders)), key=lambda run: run.folder.name):
        key = (run.project, run.profile, run.provenance.get("data", "drawn"))
        found.setdefault(key, {})[run.seed] = run
    return {key: [seeds[seed] for seed in sorted(seeds)] for key, seeds in sorted(found.items())}


# --- writing ----------------------------------------------------------------------------------------------------


def report(folders, out):
    """Merge runs into ``<out>.md`` and ``<out>.html``; returns the two paths.

    ``folders``: run folders, or folders that hold them. Projects, profiles and data sets stay apart; where there are
    several, one table over all of them comes first.
    """
    found = group_runs(folders)
    sections = []
    if len(found) > 1:
        sections.append(("All projects", course_notes(found), [("Scores, verdicts and costs", *course_table(found))]))
    for (project, profile, data), runs in found.items():
        source = "drawn data" if data == "drawn" else f"data {data}"
        sections.append(
            (
                f"{project}, {profile}, {source}",
                run_notes(runs),
                [("Arms", *arms_table(runs)), ("Comparisons", *comparisons_table(runs))],
            )
        )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return (
        atomic_write(out.with_name(out.name + ".md"), _markdown(sections)),
        atomic_write(out.with_name(out.name + ".html"), _html(sections)),
    )


def _markdown(sections):
    parts = ["# Results\n"]
    for title, notes, tables in sections:
        parts += [f"## {title}\n", *(note + "\n" for note in notes)]
        for _, header, rows in tables:
            lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
            parts.append(
                "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines) + "\n"
            )
    return "\n".join(parts)


STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a;
background:#fff}.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0}caption{text-align:left;
font-weight:600;padding:.3rem 0}th,td{padding:.3rem .7rem;border-bottom:1px solid #767676;text-align:right;
white-space:nowrap}th:first-child{text-align:left}thead th{border-bottom:2px solid #1a1a1a}"""


def _html(sections):
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


def _html_table(caption, header, rows):
    """A table a screen reader can walk: caption, column and row headers; scrollable with the keyboard."""
    caption = html.escape(caption)
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    lines = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>"
    )
