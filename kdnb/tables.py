"""Tables over runs, as strings: the arms and comparisons of one project, one table over all projects, and the
README's table of photographs.

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
KEPT = "distilled_kept_vs_kept_matched"  # at equal seconds too, with the teacher's outputs kept
ELSEWHERE = "elsewhere_distilled_vs_elsewhere_baseline"
UNSEEN_TEACHER = "few labels, a teacher that never saw the student's images"
PHOTO_SCORES = ("teacher", "student alone", "distilled", "few labels, alone", "few labels, distilled")
PHOTO_GAINS = {
    "distilled − alone": "distilled_vs_baseline",
    "at equal seconds": "distilled_vs_baseline_matched",
    "few labels: distilled − alone": "few_labels_distilled_vs_few_labels_baseline",
    f"{UNSEEN_TEACHER}: distilled − alone": ELSEWHERE,
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


def seeds_table(runs: Runs) -> Table:
    """Scores and gains of one project, a column for each seed, then the mean, the 95 % interval and the verdict."""
    rows = []
    for title, arm in {**SCORES, "teacher": teacher_of(runs)}.items():
        if numbers := finite(each := scores(runs, arm)):
            cells = [MISSING if one is None else f"{one:.2f}" for one in each]
            rows.append([title, *cells, f"{np.mean(numbers):.2f}", "", ""])
    for title, name in {**GAINS, f"{UNSEEN_TEACHER}: distilled − alone": ELSEWHERE}.items():
        if gain := merged(runs, name):
            each = [run.comparison(name).delta if name in run.comparisons else math.nan for run in runs]
            interval = f"{signed(gain.ci95[0])} to {signed(gain.ci95[1])}"
            rows.append([title, *map(signed, each), signed(gain.delta), interval, gain.verdict])
    return ["", *(f"seed {run.seed}" for run in runs), "mean", "95 % interval", "verdict"], rows


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
    where = "" if data == "drawn" else f", data {data}"
    low = "" if first.higher_is_better else ", lower is better"
    teacher = teacher_of(runs)
    names = {**SCORES, "teacher": teacher}
    pairs = [(quantity(cost(runs, teacher, key)), quantity(cost(runs, "distilled", key))) for key in _shown_costs()]
    costs = [f"{of_teacher} → {of_student}" for of_teacher, of_student in pairs]
    return [
        f"{profile}, {named_seeds(runs)}{where}",
        f"{first.primary}, {UNITS[first.higher_is_better]}{low}",
        *(mean_and_range(scores(runs, arm)) for arm in names.values()),
        *(_gain(runs, name) for name in GAINS.values()),
        *costs,
    ]


def named_seeds(runs: Runs) -> str:
    """ "seed 0", "seeds 0, 1, 2"."""
    return f"seed{'s' * (len(runs) > 1)} {', '.join(str(run.seed) for run in runs)}"


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


# --- photographs ------------------------------------------------------------------------------------------------


def photo_table(groups: Groups) -> Table:
    """The README's table of runs on photographs, a row for each project and data set; a cell's lines end in ``<br>``.

    Scores are means over seeds, the lowest and the highest below them; gains have their 95 % interval and verdict below
    them. A cell names its seeds where not all of the row's have that arm, and is an en dash where none has.
    """
    header = ["photographs", "score", *PHOTO_SCORES, *PHOTO_GAINS, "cost, teacher → student"]
    return header, [_photo_row(project, data, runs) for (project, _, data), runs in groups.items()]


def _photo_row(project: str, data: str, runs: Runs) -> list[str]:
    low = "" if runs[0].higher_is_better else "lower is better"
    arms = {**SCORES, "teacher": teacher_of(runs)}
    gains = {title: [_photo_gain(runs, name)] for title, name in PHOTO_GAINS.items()}
    if any(KEPT in run.comparisons for run in runs):
        gains["at equal seconds"].append("<sub>with the teacher's outputs kept</sub><br>" + _photo_gain(runs, KEPT))
    return [
        _lines(f"[{project[:2]}](notebooks/{project}.ipynb)&nbsp;{data}", named_seeds(runs)),
        _lines(f"{runs[0].primary.replace('_', ' ')}, {UNITS[runs[0].higher_is_better]}", low),
        *(_photo_score(runs, arms[title]) for title in PHOTO_SCORES),
        *("<br>".join(cells) for cells in gains.values()),
        _photo_costs(runs),
    ]


def _lines(first: str, *others: str) -> str:
    small = "<br>".join(filter(None, others))
    return f"{first}<br><sub>{small}</sub>" if small else first


def _some_of(runs: Runs, having: Runs) -> str:
    return "" if len(having) == len(runs) else f"{named_seeds(having)} only"


def _digits(runs: Runs) -> int:
    return 1 if runs[0].higher_is_better else 2  # of percent, of nats


def _photo_score(runs: Runs, arm: str) -> str:
    having, digits = [run for run in runs if finite(scores([run], arm))], _digits(runs)
    if not having:
        return MISSING
    numbers = finite(scores(having, arm))
    span = f"{min(numbers):.{digits}f} to {max(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return _lines(f"{np.mean(numbers):.{digits}f}", span, _some_of(runs, having))


def _photo_gain(runs: Runs, name: str) -> str:
    having = [run for run in runs if name in run.comparisons]
    gain = merged(having, name)
    if gain is None:
        return MISSING
    delta, low, high = (f"{value:+.{_digits(runs)}f}".replace("-", "−") for value in (gain.delta, *gain.ci95))
    return _lines(delta, f"{low} to {high}", gain.verdict, _some_of(runs, having))


def _photo_costs(runs: Runs) -> str:
    lines = []
    for key, unit in (("params", "parameters"), ("flops", "FLOPs"), ("latency_ms", "ms")):
        both = [quantity(cost(runs, arm, key)) for arm in (teacher_of(runs), "distilled")]
        if both != [MISSING, MISSING]:
            lines.append(f"{both[0]} → {both[1]} {unit}".replace(" ", "&nbsp;"))
    return "<br>".join(lines) or MISSING
