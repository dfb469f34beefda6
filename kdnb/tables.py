"""Tables over runs, as strings: the arms and comparisons of one project, and one table over all projects.

A run here is a ``kdnb.report.Metrics``; ``runs`` are the seeds of one project in one profile on one data set.
"""

import math

import numpy as np

from kdnb.evidence import over_seeds

COSTS = {
    "params": "parameters",
    "flops": "FLOPs",
    "latency_ms": "latency, ms",
    "size_mb": "file, MB",
    "train_s": "training, CPU s",
    "steps": "steps",
}
MISSING = "–"
UNITS = {True: "%", False: "nats"}  # of what should be high, and of what should be low
# who teaches the student in "distilled", where it is not the arm "teacher"
TEACHES = {"06_car_5fold_kd": "ensemble"}
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


def arms_table(runs):
    """(header, rows) of strings: per arm the mean over seeds of the metrics and costs, with the range of metrics."""
    primary = runs[0].primary
    arms = list(dict.fromkeys(name for run in runs for name in run.arms))
    keys = list(
        dict.fromkeys(
            key
            for run in runs
            for numbers in run.arms.values()
            for key, value in numbers.items()
            if isinstance(value, (int, float))
        )
    )
    others = [key for key in keys if key != primary and key not in COSTS]
    rows = []
    for arm in arms:

        def values(key, arm=arm):
            return [run.arms[arm].get(key) for run in runs if arm in run.arms]

        rows.append(
            [arm]
            + [mean_and_range(values(key)) for key in [primary, *others]]
            + [quantity(values(key)) for key in COSTS]
        )
    return ["arm", primary, *others, *COSTS.values()], rows


def comparisons_table(runs):
    """(header, rows) of strings: per comparison the mean difference, its range and interval over seeds, the verdict."""
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.comparisons):
        gain = merged(runs, name)
        deltas = gain.per_seed
        span = f"{signed(min(deltas))} to {signed(max(deltas))}"
        interval = f"{signed(gain.ci95[0])} to {signed(gain.ci95[1])}"
        rows.append(
            [name.replace("_", " "), signed(gain.delta), span, interval, gain.verdict, ", ".join(map(signed, deltas))]
        )
    return ["comparison", "difference", "lowest to highest seed", "95 % interval", "verdict", "per seed"], rows


def merged(runs, name):
    """A comparison over the seeds that have it, or None."""
    seeds = [run.comparison(name) for run in runs if name in run.comparisons]
    return over_seeds(seeds) if seeds else None


def finite(values):
    return [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]


def mean_and_range(values):
    numbers = finite(values)
    if not numbers:
        return MISSING
    mean = f"{np.mean(numbers):.2f}"
    return mean if len(numbers) == 1 else f"{mean} ({min(numbers):.2f} to {max(numbers):.2f})"


def quantity(values):
    """The mean with three significant figures and a unit a person can read: 1.76 M, 410 k."""
    numbers = finite(values)
    if not numbers:
        return MISSING
    mean = float(np.mean(numbers))
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e5, " k")):
        if abs(mean) >= size:
            return f"{mean / (1e3 if unit == ' k' else size):.3g}{unit}"
    return f"{mean:.0f}" if mean >= 100 or mean == int(mean) else f"{mean:.3g}"


def signed(value):
    return MISSING if math.isnan(value) else f"{value:+.2f}"


def run_notes(runs):
    """What a reader must know before trusting the tables."""
    direction = "higher" if runs[0].higher_is_better else "lower"
    seeds = ", ".join(str(run.seed) for run in runs)
    notes = [
        f"Seeds: {seeds}. {runs[0].primary}: {direction} is better. Means over seeds, lowest to highest in "
        "brackets; a difference is the first arm minus the second, its interval a paired bootstrap over test "
        + ("items and seeds." if len(runs) > 1 else "items; one seed says nothing about others.")
    ]
    for what, key in (("settings", "settings_sha256"), ("code", "commit"), ("device", "device")):
        if len({run.provenance.get(key) for run in runs}) > 1:
            notes.append(f"Careful: the seeds were not run with the same {what}.")
    return notes


# --- all projects -----------------------------------------------------------------------------------------------


def course_table(found):
    """(header, rows) of strings: a column for each project, a row for each score, verdict and cost.

    ``found``: as ``kdnb.report.group_runs`` gives it. Of several seeds scores are means, lowest to highest in brackets.
    Costs are the teacher's → the student's.
    """
    columns = [_column(*key, runs) for key, runs in found.items()]
    header = ["", *(project.replace("_", " ") for project, _, _ in found)]
    return header, [list(row) for row in zip(_row_names(), *columns, strict=True)]


def _row_names():
    return ["profile", "score", *SCORES, *GAINS, *(f"{COSTS[key]}, teacher → student" for key in _shown_costs())]


def _shown_costs():
    return [key for key in COSTS if key not in ("train_s", "steps")]


def _column(project, profile, data, runs):
    first = runs[0]
    seeds = f"seed {first.seed}" if len(runs) == 1 else f"seeds {', '.join(str(run.seed) for run in runs)}"
    where = "" if data == "drawn" else f", data {data}"
    low = "" if first.higher_is_better else ", lower is better"
    names = {**SCORES, "teacher": teacher_of(runs)}
    return [
        f"{profile}, {seeds}{where}",
        f"{first.primary}, {UNITS[first.higher_is_better]}{low}",
        *(mean_and_range(scores(runs, arm)) for arm in names.values()),
        *(_gain(runs, name) for name in GAINS.values()),
        *(
            f"{quantity(cost(runs, names['teacher'], key))} → {quantity(cost(runs, 'distilled', key))}"
            for key in _shown_costs()
        ),
    ]


def teacher_of(runs):
    """The arm that teaches the student of a project."""
    name = TEACHES.get(runs[0].project, "teacher")
    return name if name in runs[0].arms else "teacher"


def scores(runs, arm):
    """The primary score of an arm in every run; None where it is not there."""
    return [run.arms.get(arm, {}).get(runs[0].primary) for run in runs]


def cost(runs, arm, key):
    """A cost of an arm in every run, one of COSTS; what it needs a depth network for costs that one too."""
    each = [run.arms.get(arm, {}) for run in runs]
    return [one[key] + (one.get(f"{key}_depth") or 0) if one.get(key) is not None else None for one in each]


def _gain(runs, name):
    """ "+14.4 [+7.7, +20.2] BEATS"."""
    gain = merged(runs, name)
    if gain is None:
        return MISSING
    return f"{signed(gain.delta)} [{signed(gain.ci95[0])}, {signed(gain.ci95[1])}] {gain.verdict}"


def course_notes(found):
    """What a reader must know before trusting the table over all projects."""
    out = [
        "Scores of different projects do not compare: each has its own measure and its own test set. A difference "
        "is the first arm minus the second with its 95 % interval, a paired bootstrap over test items and seeds; "
        "of a loss the lower one is better, and BEATS means lower."
    ]
    smoke = [project for project, profile, _ in found if profile == "smoke"]
    if smoke:
        out.append(f"Nothing was learned in profile smoke ({', '.join(smoke)}): those numbers say that it ran.")
    if any("latency_ms_depth" in numbers for runs in found.values() for run in runs for numbers in run.arms.values()):
        out.append(
            "Costs of 04's students include the depth network that makes their point clouds; their file does not."
        )
    return out


def gap_closed(runs):
    """Percent of the way from the student alone to its teacher that the distilled student is led; NaN where the
    teacher is not better than the student alone."""
    taught, alone, distilled = (_mean(scores(runs, arm)) for arm in (teacher_of(runs), "baseline", "distilled"))
    better = taught > alone if runs[0].higher_is_better else taught < alone
    return 100 * (distilled - alone) / (taught - alone) if better else math.nan


def times_as_much(runs, key):
    """How many times the distilled student's cost its teacher's is; NaN where one of them is not known."""
    return _mean(cost(runs, teacher_of(runs), key)) / (_mean(cost(runs, "distilled", key)) or math.nan)


def _mean(values):
    numbers = finite(values)
    return float(np.mean(numbers)) if numbers else math.nan
