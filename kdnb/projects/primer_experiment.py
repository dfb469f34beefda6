"""00 The primer, carried out: a teacher and a weak one, the students, scored, compared and kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnb.datasets.car_views import collate
from kdnb.distill.distiller import require_stronger_teacher
from kdnb.engine import Plan, accelerator, fit
from kdnb.evidence import Comparison, mean_metric
from kdnb.metrics.cost import count_parameters, state_dict_mb
from kdnb.projects.arms import Arms, Result, add_costs, compare_arms, train_config, training_seconds
from kdnb.projects.car_answers import answers
from kdnb.projects.car_kfold import build
from kdnb.projects.headless import headless, stage_command
from kdnb.projects.primer import (
    ABLATION_ARMS,
    ARMS,
    PRIMARY,
    PROJECT,
    TEACHERS,
    Arm,
    Data,
    PrimerSettings,
    arms_of,
    build_distiller,
    open_data,
    pairs_of,
)
from kdnb.projects.step_cost import cost_of_distilling
from kdnb.run import Run

VIEWS = ("plain", "plain_flip")  # of a training crop


class Experiment:
    """All arms of one run of 00; what an arm leaves behind is a ``Result``, kept by ``Arms`` in the run's folder."""

    def __init__(self, run: Run, settings: PrimerSettings, data: Data, root: str | Path = "data"):
        self.run, self.settings, self.data, self.root = run, settings, data, root
        self.acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
        if settings.crop <= 96 and "KDNB_THREADS" not in os.environ:
            torch.set_num_threads(1)  # such small pictures gain nothing from a second thread
        self.arms = Arms(run, self._fit, self._build, self.needs, self._command, PRIMARY)
        self.results = self.arms.results
        self.known = arms_of(settings)
        self.classes = data.classes
        self.order = np.random.default_rng((run.seed, 0)).permutation(len(data.train))

    # --- arms ---------------------------------------------------------------------------------------------------

    def train(self, name: str) -> Result:
        """Train one of TEACHERS, "baseline_matched", or any arm of ``arms_of``; or read it back."""
        return self.arms.train(name)

    def train_together(self, *names: str) -> list[Result]:
        """Like ``train`` for several arms; with ``settings.processes`` > 1 side by side, each on one core."""
        processes = self.settings.processes if self.acc.num_processes == 1 else 1
        return self.arms.train_together(names, processes, self._prepare)

    def _prepare(self, new: list[str]) -> None:
        if "baseline_matched" in new:
            self.cost_of_distilling()

    def train_all(self, ablations: bool = False) -> None:
        """Teachers and students alone, the check that the teacher is worth learning from, its students."""
        names = [name for name in self.known if ablations or name not in ABLATION_ARMS]
        alone = [name for name in names if not self.known[name].terms]
        self.train_together(*TEACHERS, *alone)
        self.check_teacher()
        self.train_together("baseline_matched", *(name for name in names if name not in alone))

    def learns_from_teacher(self, name: str) -> bool:
        return name == "baseline_matched" or bool(self.known.get(name, Arm()).terms)

    def needs(self, name: str) -> list[str]:
        """The arms that must be finished before this one."""
        if not self.learns_from_teacher(name):
            return []
        return list(dict.fromkeys(["teacher", "baseline", self.known.get(name, Arm()).teacher]))

    def _command(self, names: list[str], claims: str) -> list[str]:
        return stage_command("kdnb.projects.primer", self.run, self.root, names, claims)

    def check_teacher(self, name: str = "teacher") -> None:
        """Refuse a teacher that is no better on validation than the student without it."""
        teacher, baseline = self.train(name).validation, self.train("baseline").validation
        require_stronger_teacher(teacher, baseline, f"validation {PRIMARY}", self.settings.allow_weaker_teacher)

    def arm(self, name: str) -> Arm:
        """The arm with its number of steps settled."""
        if name == "baseline_matched":
            return Arm(longer=max(1.0, self.cost_of_distilling()))
        return self.known[name]

    def _fit(self, name: str) -> Result:
        settings, seed = self.settings, self.run.seed
        if name in TEACHERS:
            arm, steps, lr = Arm(), settings.teacher_steps, settings.teacher_lr
            steps = steps if name == "teacher" else settings.weak_steps
            model = build(settings.teacher, len(self.classes), "A", 1000 + seed)
        else:  # every student starts from the same weights: what differs between arms is only what the arm says
            arm, lr = self.arm(name), settings.lr
            steps = round(settings.student_steps * (settings.long if arm.longer is None else arm.longer))
            model = build(settings.student, len(self.classes), "A", seed + arm.reseeded)
        distiller = self._distiller(model, arm)
        torch.manual_seed(seed + arm.reseeded)
        views = self.data.train.with_labels(self.labelled(arm.few))
        file = self.run.folder / "checkpoints" / f"{name}.pt" if settings.checkpoint_every else None
        fitted = fit(
            distiller,
            views,
            self._plan(arm),
            train_config(settings, steps, lr),
            collate=collate,
            name=name,
            checkpoint=file,
            validate=lambda _: self._accuracy(model, "validation"),
        )
        return self._finish(name, model, fitted)

    def _distiller(self, student: nn.Module, arm: Arm):
        return build_distiller(student, self.train(arm.teacher).model if arm.terms else None, arm.terms, self.settings)

    def labelled(self, few: int) -> list[int]:
        """The training pictures whose labels an arm may use: so many times ``few_labels`` of each class; 0: all. More
        labels always hold the fewer."""
        if not few:
            return sorted(self.order.tolist())
        of_class = self.data.train.labels[self.order]
        return sorted(
            int(i)
            for label in range(len(self.classes))
            for i in self.order[of_class == label][: few * self.settings.few_labels]
        )

    def _plan(self, arm: Arm) -> Plan:
        """The arm's batches: with few labels, a distilled student fills half of each with unlabelled pictures."""
        size, labelled = self.settings.batch, self.labelled(arm.few)
        others = sorted(set(self.order.tolist()) - set(labelled)) if arm.terms else []
        pools = [(labelled, size - size // 2), (others, size // 2)] if others else [(labelled, size)]
        return Plan(pools, VIEWS, self.run.seed + arm.reseeded)

    def cost_of_distilling(self) -> float:
        """How many times longer than the baseline ``distilled`` trains for; see ``step_cost``."""
        arm, views = ARMS["distilled"], self.data.train
        student, plan = build(self.settings.student, len(self.classes), "A", self.run.seed), self._plan(arm)
        return cost_of_distilling(
            self.run,
            self.acc,
            lambda: self._distiller(student, Arm()),
            lambda: self._distiller(student, arm),
            lambda: [collate([views[key] for key in plan.batch(step)]) for step in range(14)],
            train_config(self.settings, self.settings.student_steps, self.settings.lr),
            lambda: 0.0,
        )

    def _finish(self, name: str, model: nn.Module, fitted) -> Result:
        logits, labels = self._logits(model, "test"), torch.from_numpy(self.data.test.labels)
        right = logits.argmax(1) == labels
        numbers = {
            "accuracy": 100 * right.float().mean().item(),
            "log_loss": F.cross_entropy(logits, labels).item(),
            "params": count_parameters(model),
            "size_mb": state_dict_mb(model),
            "train_s": training_seconds(fitted, self.acc),
            "steps": fitted.steps,
        }
        validation = max((score for _, score in fitted.scores), default=float("nan"))
        result = Result(model, {"right": right.int().tolist()}, numbers, validation, fitted)
        if self.acc.is_main_process:
            self.arms.keep(name, result)
        self.acc.wait_for_everyone()
        return result

    def _build(self, name: str) -> nn.Module:
        settings = self.settings.offline()
        network = settings.teacher if name in TEACHERS else settings.student
        return build(network, len(self.classes), "A", 0).to(self.acc.device)

    # --- answers ------------------------------------------------------------------------------------------------

    def logits(self, name: str, split: str = "test") -> Tensor:
        """(N, C) what a finished arm says of every picture of a split, as it is."""
        return self._logits(self.train(name).model, split)

    def _logits(self, model: nn.Module, split: str) -> Tensor:
        views = getattr(self.data, split)
        return answers(model, views, [(i, "plain") for i in range(len(views))], self.acc.device)

    def _accuracy(self, model: nn.Module, split: str) -> float:
        return 100 * float((self._logits(model, split).argmax(1).numpy() == getattr(self.data, split).labels).mean())

    def scores_by_labels(self, who: str) -> dict[int, list[float]]:
        """Number of labelled pictures → [accuracy] of the arms that are finished.

        Args:
            who: "baseline" or "distilled".
        """
        arms = {0: who, 1: f"few_labels_{who}"} | {n: f"few_labels_x{n}_{who}" for n in self.settings.more_labels}
        return {
            len(self.labelled(few)): [self.results[name].numbers[PRIMARY]]
            for few, name in arms.items()
            if name in self.results
        }

    # --- evidence -----------------------------------------------------------------------------------------------

    def compare(self) -> dict[str, Comparison]:
        """Every pair of ``pairs_of`` whose two arms are there, by paired bootstrap over the test pictures."""

        def metric(name):
            return mean_metric(100 * np.array(self.results[name].answers["right"]))

        return compare_arms(self.results, pairs_of(self.settings), metric, len(self.data.test.labels))

    def add_costs(self) -> None:
        """FLOPs and CPU latency of one picture, teacher and student in turn in one run."""
        image, meta = torch.zeros(1, 3, self.settings.crop, self.settings.crop, dtype=torch.uint8), torch.zeros(1, 0)
        calls = {}
        for name in self.results:
            model = self._build(name).cpu().eval()
            calls.setdefault(network_of(name), lambda model=model: model(image, meta))
        add_costs(self.results, calls, network_of)

    def save(self) -> dict[str, Comparison]:
        """Costs, comparisons and metrics.json; returns the comparisons."""
        self.add_costs()
        comparisons = self.compare()
        arms = {name: result.numbers for name, result in self.results.items()}
        self.run.save_metrics(PRIMARY, True, arms, comparisons, self.acc.device)
        return comparisons


def network_of(name: str) -> str:
    return "teacher" if name in TEACHERS else "student"


CURVE = [f"few_labels_x{n}_{who}" for n in range(2, 101) for who in ("baseline", "distilled")]
main = headless(
    PROJECT,
    PrimerSettings,
    open_data,
    Experiment,
    (*TEACHERS, "baseline_matched", *ARMS, *ABLATION_ARMS, *CURVE),
    "primer",
)
