"""What a run shows: its comparisons, and metrics.json."""

from __future__ import annotations

from typing import Any

from kdnb.evidence import Comparison, paired_bootstrap


def compare(experiment: Any) -> dict[str, Comparison]:
    """ "b_vs_a" -> paired bootstrap over test items, of the pairs in ``comparisons`` whose arms are finished."""
    metrics, items, higher = {}, 0, experiment.higher_is_better
    for name in dict.fromkeys(name for pair in experiment.comparisons for name in pair):
        if name in experiment.results:
            metrics[name], items = experiment.bootstrap_metric(name)
    pairs = [(b, a) for b, a in experiment.comparisons if a in metrics and b in metrics]
    return {f"{b}_vs_{a}": paired_bootstrap(metrics[a], metrics[b], items, higher_is_better=higher) for b, a in pairs}


def save(experiment: Any) -> dict[str, Comparison]:
    """Costs, comparisons and metrics.json; returns the comparisons.

    metrics.json also says what each arm is shown as in figures, and who teaches the arm "distilled".
    """
    experiment.add_costs()
    comparisons, roles, primary = experiment.compare(), experiment.roles(), experiment.primary
    arms = {name: result.numbers for name, result in experiment.results.items() if primary in result.numbers}
    about = {"roles": {name: roles[name] for name in arms}, "teacher": experiment.teacher_name()}
    device = experiment.acc.device
    experiment.run.save_metrics(primary, experiment.higher_is_better, arms, comparisons, device, about)
    return comparisons
