"""06's cost of a distilling step, with a live and with a stored teacher."""

from __future__ import annotations

import json

from kdnb.engine import barrier
from kdnb.experiment import Experiment
from kdnb.experiment.step_cost import kinds_of_steps, ratio_table


def saved_step_times(experiment: Experiment) -> dict[str, float]:
    """Median milliseconds of each of ``kinds_of_steps``, timed once per run; all processes read the result."""
    file = experiment.run.folder / "step_times.json"
    experiment.teacher_outputs(experiment.known[experiment.bench_arm].teacher)  # all processes compute them together
    if experiment.acc.is_main_process and not file.exists():
        experiment.run.save_json(file.stem, kinds_of_steps(experiment, experiment.bench_arm))
    barrier(experiment.acc)
    return json.loads(file.read_text())


def cost_table(experiment: Experiment) -> str:
    """Lines of text: a distilling step with a live and with a stored teacher beside a plain one, and live to stored."""
    times = saved_step_times(experiment)
    table = ratio_table(f"06: batch {experiment.settings.batch}, median of steps in turn", times)
    return f"{table}\n\nlive / stored: {times['KD step, live'] / times['KD step, kept outputs']:.1f}"
