"""Tables over runs, as strings: the arms and comparisons of one project, and one table over all projects.

A run here is a ``kdnb.report.Metrics``; ``runs`` are the seeds of one project in one profile on one data set.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdnb.evidence import Comparison, over_seeds

Runs = Sequence[Any]  # of kdnb.report.Metrics
Table = tuple[list[str], list[list[str]]]  # header, rows
Groups = Mapping[tuple[str, str, str], Runs]  # (project, profile, data) -> runs, as kdnb.report.group_runs gives it

COSTS = {
    "params": "parameters",
    "flops": "FLOPs",
    "latency_ms": "latency, ms",
    "size_mb": "file, MB",
    "train_s": "training, CPU s",
    "steps": "steps",
}
MISSING = "–"
UNITS = {True: "%", False: "nats"}  # of scores where higher is better, and of losses
SCORES = {
    "teacher": "teacher",
    "student alone": "baseline",
    "student alone, as many seconds": "baseline_matched",
    "distilled": "distilled",
    "few labels, alone": "few_labels_baseline",
    "few labels, distilled": "few_labels_distilled",
}
GAINS = {
    "distilled − alone": "distilled_vs_baseline",
    "distilled − alone, as many seconds": "distilled_vs_baseline_matched",
    "few labels: distilled − alone": "few_labels_distilled_vs_few_labels_baseline",
}


# --- one project ------------------------------------------------------------------------------------------------


def arms_table(runs: Runs) -> Table:
    """Per arm the mean over seeds of the metrics, with their range, and of the costs."""
    primary = runs[0].primary
    arms = dict.fromkeys(name for run in runs for name in run.arms)
    numbers = [numbers for run in runs for numbers in run.arms.values()]
    keys = dict.fromkeys(key for one in numbers for key, value in one.items() if isinstance(value, (int, float)))
    metrics = [primary, *(key for key in keys if key != primary and key not in COSTS)]
    rows = []
    for arm in arms:
        seeds = [run.arms[arm] for run in runs if arm in run.arms]
        means = [mean_and_range([seed.get(key) for seed in seeds]) for key in metrics]
        costs = [quantity([seed.get(key) for seed in seeds]) for key in COSTS]
        rows.append([arm, *means, *costs])
    return ["arm", *metrics, *COSTS.values()], rows


def comparisons_table(runs: Runs) -> Table:
    """Per comparison the mean difference, its range and interval over seeds, and the verdict."""
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.comparisons):
        gain = over_seeds([run.comparison(name) for run in runs if name in run.comparisons])
        deltas = gain.per_seed
        span = f"{signed(min(deltas))} to {signed(max(deltas))}"
        interval = f"{signed(gain.ci95[0])} to {signed(gain.ci95[1])}"
        seeds = ", ".join(map(signed, deltas))
        rows.append([name.replace("_", " "), signed(gain.delta), span, interval, gain.verdict, seeds])
    return ["comparison", "difference", "lowest to highest seed", "95 % interval", "verdict", "per seed"], rows


def merged(runs: Runs, name: str) -> Comparison | None:
    """The comparison over the seeds that have it, or None."""
    seeds = [run.comparison(name) for run in runs if name in run.comparisons]
    return over_seeds(seeds) if seeds else None


def finite(values: Iterable[Any]) -> list[float]:
    """The finite numbers among values."""
    return [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]


def mean_and_range(values: Iterable[Any]) -> str:
    """ "61.20 (60.10 to 62.30)"; only the mean of a single number."""
    numbers = finite(values)
    if not numbers:
        return MISSING
    mean = f"{np.mean(numbers):.2f}"
    return mean if len(numbers) == 1 else f"{mean} ({min(numbers):.2f} to {max(numbers):.2f})"


def quantity(values: Iterable[Any]) -> str:
    """The mean with three significant figures and a readable unit: 1.76 M, 410 k."""
    numbers = finite(values)
    if not numbers:
        return MISSING
    mean = float(np.mean(numbers))
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e5, " k")):
        if abs(mean) >= size:
            return f"{mean / (1e3 if unit == ' k' else size):.3g}{unit}"
    return f"{mean:.0f}" if mean >= 100 or mean == int(mean) else f"{mean:.3g}"


def signed(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:+.2f}"


def run_notes(runs: Runs) -> list[str]:
    """Sentences to read before the tables of one project."""
    direction = "higher" if runs[0].higher_is_better else "lower"
    seeds = ", ".join(str(run.seed) for run in runs)
    over = "items and seeds." if len(runs) > 1 else "items; one seed says nothing about others."
    notes = [
        f"Seeds: {seeds}. {runs[0].primary}: {direction} is better. Means over seeds, lowest to highest in brackets; "
        f"a difference is the first arm minus the second, its interval a paired bootstrap over test {over}"
    ]
    for what, key in (("settings", "settings_sha256"), ("code", "commit"), ("device", "device")):
        if len({run.provenance.get(key) for run in runs}) > 1:
            notes.append(f"Careful: the seeds were not run with the same {what}.")
    return notes


# --- all projects -----------------------------------------------------------------------------------------------


def course_table(groups: Groups) -> Table:
    """A column for each project, a row for each score, verdict and cost.

    Of several seeds scores are means, lowest to highest in brackets. Costs are the teacher's → the student's.
    """
    columns = [_column(profile, data, runs) for (_, profile, data), runs in groups.items()]
    header = ["", *(project.replace("_", " ") for project, _, _ in groups)]
    return header, [list(row) for row in zip(_row_names(), *columns, strict=True)]


def _row_names() -> list[str]:
    return ["profile", "score", *SCORES, *GAINS, *(f"{COSTS[key]}, teacher → student" for key in _shown_costs())]


def _shown_costs() -> list[str]:
    return [key for key in COSTS if key not in ("train_s", "steps")]


def _column(profile: str, data: str, runs: Runs) -> list[str]:
    first = runs[0]
    seeds = f"seed {first.seed}" if len(runs) == 1 else f"seeds {', '.join(str(run.seed) for run in runs)}"
    where = "" if data == "drawn" else f", data {data}"
    low = "" if first.higher_is_better else ", lower is better"
    teacher = teacher_of(runs)
    names = {**SCORES, "teacher": teacher}
    pairs = [(quantity(cost(runs, teacher, key)), quantity(cost(runs, "distilled", key))) for key in _shown_costs()]
    costs = [f"{of_teacher} → {of_student}" for of_teacher, of_student in pairs]
    return [
        f"{profile}, {seeds}{where}",
        f"{first.primary}, {UNITS[first.higher_is_better]}{low}",
        *(mean_and_range(scores(runs, arm)) for arm in names.values()),
        *(_gain(runs, name) for name in GAINS.values()),
        *costs,
    ]


def teacher_of(runs: Runs) -> str:
    """The arm that teaches a project's student."""
    return runs[0].teacher if runs[0].teacher in runs[0].arms else "teacher"


def scores(runs: Runs, arm: str) -> list[float | None]:
    """The primary score of an arm in each run; None in a run without it."""
    return [run.arms.get(arm, {}).get(runs[0].primary) for run in runs]


def cost(runs: Runs, arm: str, key: str) -> list[float | None]:
    """One of COSTS of an arm in each run, with that of the depth network it needs; None in a run without it."""
    each = [run.arms.get(arm, {}) for run in runs]
    return [one[key] + (one.get(f"{key}_depth") or 0) if one.get(key) is not None else None for one in each]


def _gain(runs: Runs, name: str) -> str:
    """ "+14.4 [+7.7, +20.2] BEATS"."""
    gain = merged(runs, name)
    if gain is None:
        return MISSING
    return f"{signed(gain.delta)} [{signed(gain.ci95[0])}, {signed(gain.ci95[1])}] {gain.verdict}"


def course_notes(groups: Groups) -> list[str]:
    """Sentences to read before the table of all projects."""
    notes = [
        "Scores of different projects do not compare: each has its own measure and its own test set. A difference "
        "is the first arm minus the second with its 95 % interval, a paired bootstrap over test items and seeds; "
        "of a loss the lower one is better, and BEATS means lower."
    ]
    smoke = [project for project, profile, _ in groups if profile == "smoke"]
    if smoke:
        notes.append(f"Nothing was learned in profile smoke ({', '.join(smoke)}): those numbers say that it ran.")
    if any("latency_ms_depth" in numbers for runs in groups.values() for run in runs for numbers in run.arms.values()):
        depth = "Costs of 04's students include the depth network that makes their point clouds; their file does not."
        notes.append(depth)
    return notes


def gap_closed(runs: Runs) -> float:
    """Percent of the gap between the student alone and its teacher that distillation closes; NaN where the teacher is
    not better than the student alone."""
    teacher, alone, distilled = (_mean(scores(runs, arm)) for arm in (teacher_of(runs), "baseline", "distilled"))
    better = teacher > alone if runs[0].higher_is_better else teacher < alone
    return 100 * (distilled - alone) / (teacher - alone) if better else math.nan


def times_as_much(runs: Runs, key: str) -> float:
    """The teacher's cost divided by the distilled student's; NaN where one of them is unknown."""
    return _mean(cost(runs, teacher_of(runs), key)) / (_mean(cost(runs, "distilled", key)) or math.nan)


def _mean(values: Iterable[Any]) -> float:
    numbers = finite(values)
    return float(np.mean(numbers)) if numbers else math.nan
