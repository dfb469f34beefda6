"""06 Cars, carried out: the folds and what they say together, then the students, scored, compared and kept."""

from __future__ import annotations

import dataclasses
import io
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdnb.datasets.car_views import META, CarViews, as_numbers, collate, make_view, meta_constants, shrink, to_tensor
from kdnb.datasets.cars import describe
from kdnb.distill.classification import teacher_step
from kdnb.distill.distiller import LiveTeacher, require_stronger_teacher
from kdnb.distill.teacher_outputs import compute_seconds
from kdnb.engine import Plan, TrainConfig, accelerator, fit
from kdnb.errors import InputError
from kdnb.evidence import Comparison, mean_metric
from kdnb.metrics.classification import log_losses, scores
from kdnb.metrics.cost import count_parameters, state_dict_mb
from kdnb.models.classifier import Ensemble, mean_probabilities
from kdnb.projects.arms import Arms, Result, add_costs, compare_arms, train_config, training_seconds
from kdnb.projects.car_answers import StoredAnswers, answers, keep, out_of_fold, read
from kdnb.projects.car_kfold import (
    ABLATION_ARMS,
    ARMS,
    COMPARISONS,
    PRIMARY,
    PROJECT,
    Arm,
    CarKfoldSettings,
    Data,
    build,
    build_distiller,
    open_data,
    split_folds,
)
from kdnb.projects.car_outcome import cost_table, step_times, write_submissions
from kdnb.projects.headless import headless, stage_command
from kdnb.run import Run, atomic_write

FRESH = [f"aug{i}" for i in range(1000, 11000)]  # so many augmentations that none is likely to come again
EXPERIMENTS = tuple(f"experiment_{letter}" for letter in META)


def fold_name(number: int, letter: str, main: str) -> str:
    """ "fold_3" of the run's own experiment, "fold_3_A" of another."""
    return f"fold_{number}" if letter == main else f"fold_{number}_{letter}"


class Experiment:
    """All arms of one run of 06; what an arm leaves behind is a ``Result``, kept by ``Arms`` in the run's folder.

    "fold_1" to "fold_5" are trained first, each on four fifths of the training pictures. "teacher" is their mean in
    scores, and the best of them on validation as a network; "ensemble" is what they say together. Students learn from
    fold 1's training part and are selected on its validation part. Folds 2 to 5 have trained on those pictures, so what
    they tell a student makes its validation scores a little too good, and hands on labels that the baseline has not
    ("distilled_fold_1" is the control for that). No arm has seen a picture that is scored, but "transductive_half" and
    what is trained under the setting ``transductive``.
    """

    def __init__(self, run: Run, settings: CarKfoldSettings, data: Data, root: str | Path = "data"):
        self.run, self.settings, self.data, self.root = run, settings, data, root
        self.acc = accelerator(settings.precision, cpu=not torch.cuda.is_available())
        if settings.size[0] <= 96 and "KDNB_THREADS" not in os.environ:
            torch.set_num_threads(1)  # such small pictures gain nothing from a second thread
        self.arms = Arms(run, self._fit, self._build, self.needs, self._command, PRIMARY)
        self.results = self.arms.results
        self.classes = data.cars.classes
        self.labels = np.array([label for _, label in data.train])
        self.truth = np.array([label for _, label in data.scored])
        self.merged = data.cars.merged
        self.fold_of = split_folds(self.labels.tolist(), settings.folds, run.seed)
        self.letters = list(dict.fromkeys([settings.experiment, *META]))
        fewest = np.bincount(self.labels[self.fold_of != 1]).min()
        if settings.few_labels >= fewest:
            raise InputError(
                f"few_labels is {settings.few_labels}, expected fewer than the {fewest} training pictures "
                "of the smallest class in fold 1"
            )

    # --- arms ---------------------------------------------------------------------------------------------------

    def train(self, name: str) -> Result:
        """Train a fold, any arm of ARMS, ABLATION_ARMS or EXPERIMENTS, or what hangs on them; or read it back."""
        return self.arms.train(name)

    def train_together(self, *names: str) -> list[Result]:
        """Like ``train`` for several arms; with ``settings.processes`` > 1 side by side, each on one core."""
        processes = self.settings.processes if self.acc.num_processes == 1 else 1
        return self.arms.train_together(names, processes, self._prepare)

    def _prepare(self, new: list[str]) -> None:
        if "baseline_matched" in new:
            step_times(self)

    def train_all(self, ablations: bool = False) -> None:
        """Folds and students alone, what the folds say together, the check that it is worth learning, its students."""
        alone = [name for name, arm in ARMS.items() if not arm.teacher]
        taught = [name for name, arm in ARMS.items() if arm.teacher]
        extra = list(ABLATION_ARMS) if ablations else []
        self.train_together(*(fold for letter in self.letters for fold in self.folds(letter)), *alone)
        for name in ("teacher", "ensemble", *EXPERIMENTS):
            self.train(name)
        self.check_teacher()
        self.train_together("baseline_matched", *taught, *extra)

    def folds(self, letter: str | None = None) -> list[str]:
        """Names of the folds of an experiment, all of the run's own, the first few of the others."""
        main = self.settings.experiment
        count = self.settings.folds if letter in (None, main) else min(self.settings.compare_folds, self.settings.folds)
        return [fold_name(number, letter or main, main) for number in range(1, count + 1)]

    def members(self, name: str) -> list[str]:
        """The folds that an arm is made of: "teacher", "ensemble", or one of EXPERIMENTS; [] of any other."""
        if name in ("teacher", "ensemble"):
            return self.folds()
        if name in EXPERIMENTS:
            return self.folds(name[-1])[: self.settings.compare_folds]
        return []

    def learns_from_teacher(self, name: str) -> bool:
        return name == "baseline_matched" or bool((ARMS | ABLATION_ARMS).get(name, Arm()).teacher)

    def needs(self, name: str) -> list[str]:
        """The arms that must be finished before this one."""
        if self.learns_from_teacher(name):
            return [*self.folds(), "teacher", "ensemble", "baseline"]
        return self.members(name)

    def _command(self, names: list[str], claims: str) -> list[str]:
        return stage_command("kdnb.projects.car_kfold", self.run, self.root, names, claims)

    def check_teacher(self) -> None:
        """Refuse folds that are no better than the student without them, on pictures that neither has trained on."""
        fold, baseline = self.train(self.folds()[0]).validation, self.train("baseline").validation
        require_stronger_teacher(
            fold, baseline, "-log_loss on fold 1's validation part", self.settings.allow_weaker_teacher
        )

    def arm(self, name: str) -> Arm:
        if name == "baseline_matched":
            times = step_times(self)
            return Arm(longer=max(1.0, times["KD step, live"] / times["plain step"]))
        arm = (ARMS | ABLATION_ARMS)[name]
        return dataclasses.replace(arm, longer=self.settings.long) if arm.longer is None else arm

    def _fit(self, name: str) -> Result:
        if self.members(name):
            return self._combine(name)
        if name.startswith("fold_"):
            return self._fit_fold(name)
        return self._fit_student(name)

    def _fit_fold(self, name: str) -> Result:
        """One fold of one experiment: trained on four fifths, the state kept that is best on the last one."""
        settings, (number, letter) = self.settings, self._number_and_letter(name)
        model = build(settings.teacher, len(self.classes), letter, 1000 * (self.run.seed + 1) + number)
        inside = np.flatnonzero(self.fold_of != number).tolist()
        how = self.how(len(inside), settings.teacher_epochs, settings.teacher_lr, settings.patience)
        plan = Plan([(inside, settings.batch)], FRESH, self.run.seed)
        result = self._train(name, model, None, plan, how, letter, number)
        if letter == settings.experiment:
            self._store_views(name, result)
        return self._keep(name, result)

    def _fit_student(self, name: str) -> Result:
        """Every student starts from the same weights: what differs between arms is only what the arm says."""
        settings, arm, letter = self.settings, self.arm(name), self.settings.experiment
        student = build(settings.student, len(self.classes), letter, self.run.seed)
        epochs = settings.student_epochs * arm.longer
        result = self._train(
            name,
            student,
            self.teacher_of(arm),
            self.plan(arm),
            self.how((self.fold_of != 1).sum(), epochs, settings.lr),
            letter,
            1,
            epochs,
            self.few if arm.few else np.flatnonzero(self.fold_of != 1),
        )
        result.numbers["train_s"] += self._stored_seconds(arm)
        return self._keep(name, result)

    def _train(
        self,
        name: str,
        model: nn.Module,
        teacher,
        plan: Plan,
        how: TrainConfig,
        letter: str,
        fold: int,
        epochs: float = 1.0,
        labelled=None,
    ) -> Result:
        """Fit a network, go back to its best state on a fold's validation part, and let it answer what is scored."""
        validation = np.flatnonzero(self.fold_of == fold)

        def validate(_):
            logits = answers(model, self.learned(letter), [(int(i), "plain") for i in validation], self.acc.device)
            found = self.scores(logits, self.labels[validation])
            return {"score": -found[PRIMARY], **found}

        distiller = build_distiller(model, teacher, self.settings, epochs)
        torch.manual_seed(self.run.seed)
        fitted = fit(
            distiller,
            self.learned(letter, labelled),
            plan,
            how,
            collate=collate,
            name=name,
            validate=validate,
            checkpoint=self._checkpoint(name),
        )
        whats = ["scored"] if self.data.on_test or not name.startswith("fold_") else ["scored", "test"]
        answered = {what: self._answers_to(what, model, letter) for what in whats}
        self._keep_answers(name, answered)
        numbers = {
            **self.scores(answered["scored"], self.truth),
            "params": count_parameters(model),
            "size_mb": state_dict_mb(model),
            "train_s": training_seconds(fitted, self.acc),
            "steps": fitted.steps,
        }
        return Result(model, {"curve": fitted.validated}, numbers, max(score for _, score in fitted.scores), fitted)

    def _combine(self, name: str) -> Result:
        """The mean fold, or the folds as one: nothing is trained."""
        folds = [self.train(fold) for fold in self.members(name)]
        best = max(folds, key=lambda one: one.validation)
        total = {key: sum(one.numbers[key] for one in folds) for key in ("params", "size_mb", "train_s", "steps")}
        validation = float(np.mean([one.validation for one in folds]))
        if name == "teacher":
            means = {key: float(np.mean([one.numbers[key] for one in folds])) for key in folds[0].numbers}
            numbers = {**means, "params": best.numbers["params"], "of": self.members(name)[folds.index(best)]}
            return self._keep(name, Result(best.model, {}, numbers, validation))
        each = [self.answered(fold) for fold in self.members(name)]
        answered = {key: mean_probabilities(torch.stack([one[key] for one in each])) for key in each[0]}
        self._keep_answers(name, answered)
        numbers = {**self.scores(answered["scored"], self.truth), **total}
        return self._keep(name, Result(Ensemble([one.model for one in folds]), {}, numbers, validation))

    def how(self, count: int, epochs: float, lr: float, patience: int = 0) -> TrainConfig:
        steps = max(1, round(epochs * count / self.settings.batch))
        return dataclasses.replace(train_config(self.settings, steps, lr), patience=patience)

    def _number_and_letter(self, fold: str) -> tuple[int, str]:
        _, number, *letter = fold.split("_")
        return int(number), letter[0] if letter else self.settings.experiment

    def _checkpoint(self, name: str) -> Path | None:
        return self.run.folder / "checkpoints" / f"{name}.pt" if self.settings.checkpoint_every else None

    def _keep(self, name: str, result: Result) -> Result:
        if self.acc.is_main_process:
            if name == "distilled":
                self._save_student(result.model)
            self.arms.keep(name, result)
        self.acc.wait_for_everyone()
        return result

    def _save_student(self, student: nn.Module) -> None:
        """The original's file: a plain state dict, for ``torch.load(..., weights_only=True)``."""
        buffer = io.BytesIO()
        torch.save({key: value.cpu() for key, value in student.state_dict().items()}, buffer)
        atomic_write(self.run.folder / "Student_stage2_fold1_best.pth", buffer.getvalue())

    def _build(self, name: str) -> nn.Module:
        settings, main = self.settings.offline(), self.settings.experiment
        if name == "ensemble" or name in EXPERIMENTS:
            return Ensemble([self._build(fold) for fold in self.members(name)])
        letter = self._number_and_letter(name)[1] if name.startswith("fold_") else main
        network = settings.teacher if name.startswith("fold_") or name == "teacher" else settings.student
        return build(network, len(self.classes), letter, 0).to(self.acc.device)

    # --- pictures -----------------------------------------------------------------------------------------------

    @cached_property
    def constants(self) -> tuple[Tensor, Tensor]:
        """Mean and spread of aspect and colour over the training pictures."""
        return meta_constants(self.data.train)

    @cached_property
    def _pictures(self) -> dict[str, CarViews]:
        """Every picture once: those that may be learned from, training pictures first; those that are scored; test."""
        cars, keep = self.data.cars, not self.settings.workers
        unlabelled = [*self.data.pool, *(path for path, _ in self.data.scored[::2])]
        items = {
            "learned": self.data.train + [(path, None) for path in unlabelled],
            "scored": self.data.scored,
            "test": [(path, None) for path in cars.test_paths],
        }
        return {
            name: CarViews(one, self.settings.size, "A", keep=keep and name != "test") for name, one in items.items()
        }

    def learned(self, letter: str | None = None, labelled: list[int] | None = None) -> CarViews:
        """Pictures to learn from, with the numbers of an experiment: training, the pool, every other scored one."""
        return self._pictures["learned"].like(letter or self.settings.experiment, labelled, self.constants)

    def _answers_to(self, what: str, model: nn.Module, letter: str) -> Tensor:
        views = self._pictures[what].like(letter, None, self.constants)
        return answers(model, views, [(i, "plain") for i in range(len(views))], self.acc.device)

    @cached_property
    def few(self) -> list[int]:
        """The training pictures whose labels the few-labels arms may use: the first of each class in a random order."""
        order = np.random.default_rng((self.run.seed, 0)).permutation(np.flatnonzero(self.fold_of != 1))
        return sorted(
            int(i)
            for label in range(len(self.classes))
            for i in order[self.labels[order] == label][: self.settings.few_labels]
        )

    def plan(self, arm: Arm) -> Plan:
        """The arm's batches: where it learns from pictures without labels too, they fill half of each."""
        size, inside = self.settings.batch, np.flatnonzero(self.fold_of != 1).tolist()
        labelled = self.few if arm.few else inside
        others = self._unlabelled(arm)
        pools = [(labelled, size - size // 2), (others, size // 2)] if others else [(labelled, size)]
        views = [f"aug{i}" for i in range(self.settings.stored_views)] if arm.cached else FRESH
        return Plan(pools, views, self.run.seed)

    def _unlabelled(self, arm: Arm) -> list[int]:
        """Indices of the pictures without labels that an arm learns from; a student alone can make nothing of any."""
        if not arm.teacher:
            return []
        first, pool = len(self.labels), len(self.data.pool)
        rest = sorted(set(np.flatnonzero(self.fold_of != 1).tolist()) - set(self.few)) if arm.few else []
        half = range(first + pool, len(self._pictures["learned"])) if arm.test_half else []
        return [*rest, *range(first, first + pool), *half]

    # --- teachers -----------------------------------------------------------------------------------------------

    @property
    def stored(self) -> list[str]:
        """The views that cached teachers have answered, after the picture as it is."""
        return ["plain", *(f"aug{i}" for i in range(self.settings.stored_views))]

    def _store_views(self, fold: str, result: Result) -> None:
        """Ask a fold about every training picture and the pool, in every stored view; note what that took."""
        views, clock = self.learned(), compute_seconds(self.acc.device)
        indices = range(len(self.labels) + len(self.data.pool))
        logits = [answers(result.model, views, [(i, view) for i in indices], self.acc.device) for view in self.stored]
        result.answers["stored_s"] = compute_seconds(self.acc.device) - clock
        if self.acc.is_main_process:
            keep(self.run.folder / "cache" / f"{fold}.safetensors", {"logits": torch.stack(logits).half()})

    def stored_answers(self, teacher: str) -> Tensor:
        """(V, N, C) logits of a cached teacher in the views ``stored``, of training pictures and then the pool."""
        for fold in self.folds():
            self.train(fold)
        folds = {name: read(self.run.folder / "cache" / f"{name}.safetensors")["logits"] for name in self.folds()}
        one = self.train("teacher").numbers["of"] if teacher == "best_fold" else teacher
        if one in folds:
            return folds[one].float()
        logits = torch.stack(list(folds.values())).float()
        said = mean_probabilities(logits)
        if teacher == "out_of_fold":  # the pool is new to every fold
            train = len(self.labels)
            said[:, :train] = out_of_fold(logits[:, :, :train], self.fold_of)
        return said

    def _stored_seconds(self, arm: Arm) -> float:
        """What it took to ask a cached teacher: it counts in full towards every arm that reads the answers."""
        if not arm.cached:
            return 0.0
        seconds = {fold: self.train(fold).answers["stored_s"] for fold in self.folds()}
        total = sum(seconds.values())
        return total if arm.teacher == "ensemble" else total / len(seconds)  # the others ask one fold a picture

    def teacher_of(self, arm: Arm) -> LiveTeacher | StoredAnswers | None:
        """What answers the student's batches; None for a student alone."""
        if not arm.teacher:
            return None
        if arm.cached:
            return StoredAnswers(self.stored_answers(arm.teacher), self.stored)
        live = {"ensemble": "ensemble", "best_fold": "teacher", "fold_1": self.folds()[0]}
        if arm.teacher not in live:
            raise InputError(
                f"a live teacher {arm.teacher!r}, expected one of {', '.join(live)}: only stored answers "
                "can come from another fold for each picture"
            )
        return LiveTeacher(self.train(live[arm.teacher]).model, teacher_step)

    # --- scores -------------------------------------------------------------------------------------------------

    def scores(self, logits: Tensor, labels: np.ndarray) -> dict[str, float]:
        """log_loss and the scores in percent; see ``kdnb.metrics.classification``."""
        return scores(logits.softmax(1).numpy(), labels, merged=self.merged)

    def _keep_answers(self, name: str, answered: dict[str, Tensor]) -> None:
        if self.acc.is_main_process:
            keep(self.run.folder / "predictions" / f"{name}.safetensors", answered)

    def answered(self, name: str) -> dict[str, Tensor]:
        """What a finished arm says: "scored", logits (N, C); of a fold also "test", where those are others."""
        return read(self.run.folder / "predictions" / f"{name}.safetensors")

    def losses(self, name: str) -> np.ndarray:
        """(N,) log loss of an arm for each picture that is scored; of "teacher" the mean over the folds."""
        if name == "teacher":
            return np.mean([self.losses(fold) for fold in self.members(name)], axis=0)
        return log_losses(self.answered(name)["scored"].softmax(1).numpy(), self.truth, self.merged)

    def compare(self) -> dict[str, Comparison]:
        """Every pair of COMPARISONS whose two arms are there, by paired bootstrap over pictures; lower is better."""
        return compare_arms(
            self.results,
            COMPARISONS,
            lambda name: mean_metric(self.losses(name)),
            len(self.truth),
            higher_is_better=False,
        )

    def add_costs(self) -> None:
        """FLOPs and CPU latency of one picture, a fold, the ensemble and the student in turn in one run."""
        image, calls = torch.zeros(1, 3, *self.settings.size, dtype=torch.uint8), {}
        for name in self.results:
            model, letter = self._build(name).cpu().eval(), self.letter_of(name)
            meta = torch.zeros(1, len(META[letter]))
            calls.setdefault(network_of(name), lambda model=model, meta=meta: model(image, meta))
        add_costs(self.results, calls, network_of)

    def save(self) -> dict[str, Comparison]:
        """Costs, submissions, comparisons and metrics.json; returns the comparisons."""
        self.add_costs()
        if "baseline_matched" in self.results:
            self.run.log(cost_table(self))
        write_submissions(self)
        comparisons = self.compare()
        arms = {name: result.numbers for name, result in self.results.items()}
        if not self.data.on_test:
            where = f"{len(self.truth)} training pictures held out of all folds: test has no solution"
            self.run.log(f"scores are on {where}")
            arms = {name: {**numbers, "scored_on": where} for name, numbers in arms.items()}
        self.run.save_metrics(PRIMARY, False, arms, comparisons, self.acc.device)
        return comparisons

    def letter_of(self, name: str) -> str:
        """What an arm is told beside the picture: the letter of its experiment."""
        if name in EXPERIMENTS:
            return name[-1]
        return self._number_and_letter(name)[1] if name.startswith("fold_") else self.settings.experiment

    # --- questions ----------------------------------------------------------------------------------------------

    def ask(self, model: nn.Module, image: Tensor, letter: str | None = None) -> Tensor:
        """Logits (C,) for a picture uint8 (3, H, W) of any size, shown to the network as in training."""
        views = CarViews([], self.settings.size, letter or self.settings.experiment, None, self.constants)
        meta = views.standardised(as_numbers(describe(image)))[None].to(self.acc.device)
        small = to_tensor(make_view(shrink(image, views.size), views.size, 0, "plain"))[None].to(self.acc.device)
        training = model.training
        model.eval()
        with torch.no_grad():
            logits = model(small, meta)["logits"][0].float().cpu()
        model.train(training)
        return logits


def network_of(name: str) -> str:
    """Which of the networks an arm is; folds of all experiments cost the same to three digits."""
    if name in EXPERIMENTS:
        return "experiment"
    if name in ("teacher", "ensemble"):
        return name
    return "teacher" if name.startswith("fold_") else "student"


main = headless(
    PROJECT,
    CarKfoldSettings,
    open_data,
    Experiment,
    (
        "teacher",
        "ensemble",
        *EXPERIMENTS,
        *ARMS,
        "baseline_matched",
        *ABLATION_ARMS,
        *(fold_name(number, letter, "") for number in range(1, 11) for letter in META),
        *(f"fold_{number}" for number in range(1, 11)),
    ),
    "car_kfold",
)
