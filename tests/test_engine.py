import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import TORCHRUN, python, start, wait_for
from torch import nn
from torch.utils.data import Dataset

from kdnb.checkpoints import TrainHistory, keep_best
from kdnb.distill.distiller import Distiller
from kdnb.engine import NonFiniteLoss, Plan, dataloader_kwargs, fit, make_loader
from kdnb.errors import InputError
from kdnb.optimizers import TrainConfig, make_schedule

CONFIG = {"steps": 12, "lr": 0.05, "clip": 1.0, "schedule": "onecycle"}


class Points(Dataset):
    """Samples of a fixed function of their index; the view negates them."""

    def __getitem__(self, key):
        index, view = key
        x = torch.sin(torch.arange(6.0) * (index + 1))
        return (x if view == "plain" else -x), torch.tensor(index % 3)

    def __len__(self):
        return 40


class Net(nn.Module):
    """With dropout, so that a run only repeats itself if the random numbers do."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, batch):
        x, y = batch
        return {"loss": nn.functional.cross_entropy(self.layers(x), y)}


def collate(samples):
    return [torch.stack(column) for column in zip(*samples, strict=True)]


def make():
    torch.manual_seed(3)
    return Distiller(Net())


def run(module=None, plan=None, checkpoint=None, validate=None, **changes):
    module = module or make()
    plan = plan or Plan([(range(40), 8)], ("plain", "flip"), seed=1)
    config = TrainConfig(**{**CONFIG, **changes})
    history = fit(module, Points(), plan, config, collate=collate, checkpoint=checkpoint, validate=validate)
    return module, history


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_plan_goes_through_every_item_once_per_pass_and_repeats_itself():
    plan = Plan([(range(10), 4)], ("plain", "flip"), seed=5)
    items = [item for step in range(5) for item, _ in plan.batch(step)]
    assert sorted(items[:10]) == list(range(10)) and sorted(items[10:]) == list(range(10))
    assert items[:10] != items[10:]
    assert plan.batch(3) == Plan([(range(10), 4)], ("plain", "flip"), seed=5).batch(3)
    assert plan.batch(3) != Plan([(range(10), 4)], ("plain", "flip"), seed=6).batch(3)
    assert {view for step in range(9) for _, view in plan.batch(step)} == {"plain", "flip"}


def test_plan_of_two_pools_fills_each_batch_from_both():
    plan = Plan([([0, 1], 2), ([7, 8, 9], 3)], seed=0)
    for step in range(4):
        items = [item for item, _ in plan.batch(step)]
        assert sorted(items) == [0, 1, 7, 8, 9]


def test_a_batch_must_divide_by_the_world_size():
    acc = SimpleNamespace(num_processes=3, process_index=0, device="cpu")
    with pytest.raises(InputError, match="^batch size 4 is not divisible by world size 3$"):
        make_loader(Points(), Plan([(range(40), 4)]), TrainConfig(**CONFIG), acc, collate, start=0)


@pytest.mark.parametrize(
    ("pools", "more", "line"),
    [
        ([(range(9), 4), ([], 4)], {}, "^pool 2 has no item, expected some to draw 4 for each batch from$"),
        ([([], 4)], {}, "^pool 1 has no item"),
        ([(range(9), 0), ([], 0)], {}, "^batches of 2 pools have no item, expected at least one$"),
        ([], {}, "^batches of 0 pools have no item"),
        ([(range(9), -1)], {}, "^pool 1 gives -1 items to each batch, expected a whole number from 0 on$"),
        ([(range(9), 2.0)], {}, "^pool 1 gives 2.0 items to each batch"),
        ([(range(9), 2)], {"views": ()}, "^batches have no view, expected at least one, such as 'plain'$"),
        ([(range(9), 2)], {"seed": -1}, "^the seed of batches is -1, expected a number from 0 on$"),
    ],
)
def test_a_plan_that_has_nothing_to_draw_is_refused(pools, more, line):
    with pytest.raises(InputError, match=line):
        Plan(pools, **more)


def test_a_pool_that_gives_no_item_changes_nothing():
    with_it = Plan([(range(9), 4), ([], 0), (np.arange(3), np.int64(0))], seed=2)
    assert [with_it.batch(step) for step in range(5)] == [Plan([(range(9), 4)], seed=2).batch(n) for n in range(5)]


def test_training_learns_and_logs_every_step():
    module, result = run(steps=60, schedule="cosine", lr=0.02)
    assert [h["step"] for h in result.history] == list(range(1, 61))
    assert set(result.history[0]) == {"step", "lr", "loss", "task"}
    assert np.mean([h["loss"] for h in result.history[-10:]]) < np.mean([h["loss"] for h in result.history[:10]])
    assert result.cpu_seconds > 0 and result.seconds > 0


def test_resume_is_bit_equal(tmp_path):
    uninterrupted, _ = run()
    checkpoint = tmp_path / "c.pt"
    stop = RuntimeError("killed")

    def kill(module):
        raise stop

    with pytest.raises(RuntimeError, match="killed"):
        run(checkpoint=checkpoint, checkpoint_every=5, validate=kill, validate_every=7)
    resumed, result = run(checkpoint=checkpoint, checkpoint_every=5)
    assert same(uninterrupted, resumed)
    assert [h["step"] for h in result.history] == list(range(1, 13))


def test_sigkill_and_resume_give_the_same_weights(tmp_path):
    """A process killed at any moment leaves a complete checkpoint, and the next one ends at the same weights."""
    checkpoint, script = tmp_path / "c.pt", tmp_path / "train.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_engine as t\n"
        "class Slow(t.Points):\n"
        "    def __getitem__(self, key):\n"
        "        time.sleep(0.01); return super().__getitem__(key)\n"
        "t.Points = Slow\n"
        "t.run(checkpoint=sys.argv[1], checkpoint_every=1, steps=40)\n"
    )
    process = start(script, checkpoint)
    wait_for(checkpoint.exists)
    time.sleep(0.4)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL  # it was not through
    uninterrupted, _ = run(steps=40)
    resumed, history = run(checkpoint=checkpoint, checkpoint_every=1, steps=40)
    assert same(uninterrupted, resumed) and history.steps == 40


def test_nan_stops_with_the_step_and_the_part():
    class Breaks(Net):
        calls = 0

        def forward(self, batch):
            Breaks.calls += 1
            out = super().forward(batch)
            bad = out["loss"] * (float("nan") if Breaks.calls == 4 else 1)
            return {"loss": out["loss"] + bad, "parts": {"box": bad}}

    module = Distiller(Breaks())
    module.student.layers = make().student.layers
    with pytest.raises(NonFiniteLoss, match=r"step 4: part '(task|box)' of the loss is nan"):
        run(module)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("parts", "which"), [((), "the loss"), (("task",), "part 'task' of the loss"), (("fine",), "the loss")]
)
def test_a_total_that_is_not_finite_stops_before_it_reaches_the_weights(value, parts, which):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, batch, progress):
            loss = self.weight.sum() * value
            return {"loss": loss, **{name: torch.ones(()) if name == "fine" else loss for name in parts}}

    module = Plain()
    with pytest.raises(NonFiniteLoss, match=f"^step 1: {which} is {value}; lower the learning rate"):
        run(module)
    assert module.weight.item() == 1


def test_numbers_of_numpy_in_a_validation_do_not_stop_a_resume(tmp_path):
    def validate(module):
        return {"score": np.float64(0.5), "per class": np.array([0.1, 0.2])}

    options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 2, "validate_every": 2, "validate": validate}
    run(steps=2, **options)
    _, history = run(steps=4, **options)
    assert history.steps == 4
    assert history.validated == [{"step": n, "score": 0.5, "per class": [0.1, 0.2]} for n in (2, 4)]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04abc"])
def test_a_damaged_checkpoint_is_named(content, tmp_path):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(InputError, match=f"^{tmp_path / 'c.pt'}: cut or damaged .*; delete it to train anew$"):
        run(checkpoint=tmp_path / "c.pt")


def test_best_state_is_restored_and_patience_stops():
    scores = iter([1.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    states = []

    def validate(module):
        states.append({k: v.clone() for k, v in module.state_dict().items()})
        return next(scores)

    module, result = run(steps=60, validate=validate, validate_every=10, patience=2)
    assert result.steps == 40 and result.best_step == 20
    assert [score for _, score in result.scores] == [1.0, 5.0, 4.0, 3.0]
    assert all(torch.equal(states[1][k], v) for k, v in module.state_dict().items())


def test_schedules_and_optimizers():
    for schedule, last in (("onecycle", 0.0), ("cosine", 0.0), ("step", 0.01)):
        config = TrainConfig(steps=100, lr=1.0, schedule=schedule, optimizer="sgd")
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
        rates = make_schedule(optimizer, config)
        for _ in range(99):
            optimizer.step()
            rates.step()
        assert rates.get_last_lr()[0] == pytest.approx(last, abs=2e-3)
    with pytest.raises(InputError, match="expected onecycle, cosine or step"):
        make_schedule(optimizer, TrainConfig(1, 1.0, schedule="two-cycle"))
    with pytest.raises(InputError, match="expected adamw, adamw_fused or sgd"):
        run(optimizer="adamx")


def test_two_processes_get_the_same_global_batches(tmp_path):
    """torchrun with two processes and gloo logs the losses of one process and ends at its weights."""
    script = tmp_path / "ddp.py"
    script.write_text(
        "import sys, os, json\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_engine as t\n"
        "trained = t.without_dropout()\n"
        "if os.environ['RANK'] == '0':\n"
        "    json.dump(trained, open(sys.argv[1], 'w'))\n"
    )
    python(*TORCHRUN, script, tmp_path / "two.json")
    (two, weights_two), (one, weights_one) = json.loads((tmp_path / "two.json").read_text()), without_dropout()
    assert np.allclose(one, two, atol=1e-5)
    assert all(np.allclose(weights_one[k], weights_two[k], atol=1e-4) for k in weights_one)


def without_dropout():
    """The losses and the weights of a network whose random numbers do not depend on the number of processes."""
    module = make()
    module.student.layers[2] = nn.Identity()
    module, result = run(module)
    return [step["loss"] for step in result.history], {k: v.tolist() for k, v in module.state_dict().items()}


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise InputError("training/image_2/000001.png: cannot be read, expected a PNG")


def test_an_input_error_of_a_worker_is_one_line():
    with pytest.raises(InputError) as caught:
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert str(caught.value) == "training/image_2/000001.png: cannot be read, expected a PNG"


def test_a_nan_score_never_beats_a_number():
    """Where validation has nothing to score, the last state is kept, as without validation."""
    nan, net = float("nan"), nn.Linear(1, 1, bias=False)

    def best_step(scores):
        state, best = TrainHistory(), None
        for step, score in enumerate(scores, start=1):
            net.weight.data.fill_(step)
            state.steps = step
            best = keep_best(state, best, score, net)
        assert state.best_step == best["weight"].item()
        return state.best_step

    assert best_step([nan, nan, nan]) == 3
    assert best_step([nan, 1.0, nan, 0.5]) == 2 and best_step([1.0, 2.0, 2.0, nan]) == 2


def test_loader_workers_are_forked_or_not_used(monkeypatch):
    assert dataloader_kwargs(0).get("num_workers", 0) == 0
    monkeypatch.setattr(sys, "platform", "linux")
    assert dataloader_kwargs(3) == {**dataloader_kwargs(0), "num_workers": 3, "multiprocessing_context": "fork"}
    monkeypatch.setattr(sys, "platform", "win32")
    assert "num_workers" not in dataloader_kwargs(3)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_workers_read_a_data_set_that_holds_functions():
    class Doubled(Dataset):
        double = staticmethod(lambda value: 2 * value)  # cannot be pickled

        def __len__(self):
            return 4

        def __getitem__(self, key):
            return self.double(torch.tensor([float(key[0])])), os.getpid()

    batches = []

    class Model(nn.Linear):
        def forward(self, batch, progress):
            batches.append(batch)
            return {"loss": super().forward(batch[0]).pow(2).mean()}

    def collate(samples):
        return torch.stack([value for value, _ in samples]), {pid for _, pid in samples}

    fit(Model(1, 1), Doubled(), Plan([(range(4), 4)]), TrainConfig(1, 0.1, workers=1), collate=collate)
    assert sorted(batches[0][0].flatten().tolist()) == [0, 2, 4, 6] and os.getpid() not in batches[0][1]
