"""The timed step is the trained one."""

import pytest
import torch
from torch import nn

from kdnb.distill.distiller import Distiller
from kdnb.engine import Plan, TrainConfig, fit
from kdnb.experiment.step_cost import training_step


def distiller():
    torch.manual_seed(0)
    return Distiller(nn.Linear(3, 2), student_step=lambda model, x: {"loss": model(x).pow(2).sum() * 100})


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd"}, {"clip": 0.1}, {"optimizer": "adamw", "clip": 1.0}])
def test_a_timed_step_is_a_step_of_fit(changes):
    """The same weights after one step: the same optimizer, clipping and precision."""
    how = TrainConfig(**{"steps": 1, "lr": 1e-2, "optimizer": "adamw_fused", "weight_decay": 0.05, **changes})
    data = {(i, "plain"): torch.arange(3.0) + i for i in range(4)}
    timed, trained = distiller(), distiller()
    plan = Plan([(range(4), 4)])
    fit(trained, data, plan, how, collate=torch.stack)
    # fit's schedule starts below its peak: the step is taken at that rate
    rate = fit(distiller(), data, plan, how, collate=torch.stack).history[0]["lr"]
    training_step(timed, TrainConfig(**{**vars(how), "lr": rate}))(torch.stack([data[key] for key in plan.batch(0)]))
    for one, other in zip(timed.parameters(), trained.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7)
