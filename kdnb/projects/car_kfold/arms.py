"""06's arms: the folds, the ensembles made of them, and the students."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from kdnb.datasets.car_views import META
from kdnb.experiment import Arm
from kdnb.projects.car_kfold.data import FOLDS, CarKfoldSettings
from kdnb.projects.car_kfold.terms import TERMS

COMPARED = {  # arm: the arms it may be better than
    "ensemble": ("teacher",),
    "teacher": ("baseline",),
    "distilled": ("baseline", "baseline_matched"),
    "few_labels_distilled": ("few_labels_baseline", "baseline"),
    "long_distilled": ("long_baseline",),
    "long_distilled_live": ("long_baseline", "long_distilled"),
    "distilled_cached": ("baseline", "distilled"),
    "distilled_best_fold": ("distilled", "distilled_cached"),
    "distilled_oof": ("distilled", "distilled_cached", "distilled_best_fold"),
    "distilled_fold_1": ("distilled_cached", "baseline"),
    "experiment_B": ("experiment_A",),
    "experiment_C": ("experiment_A",),
    "experiment_D": ("experiment_A",),
    "few_labels_oof": ("few_labels_distilled",),
    "double_distilled": ("double_baseline",),
    "transductive_half": ("distilled",),
}


@dataclass(frozen=True)
class CarArm(Arm):
    """An arm of 06. The network "ensemble" is made of its members.

    Attributes:
        fold: learns from the training images outside this fold, and is selected on those inside.
        experiment: what its network is given beside the image.
        outputs: "live": the teacher runs on the images of each step; "stored": its outputs for
            ``settings.stored_views`` augmentations are read; "out_of_fold": likewise, of each image those of the fold
            that has not trained on it.
        test_half: every other test image is among those it learns from, without a label.
    """

    fold: int = 1
    experiment: str = "D"
    outputs: Literal["live", "stored", "out_of_fold"] = "live"
    test_half: bool = False

    @property
    def is_fold(self) -> bool:
        return self.network == "teacher" and not self.members


def fold_arms(settings: CarKfoldSettings, letter: str) -> dict[str, CarArm]:
    """The folds of an experiment, all of the run's own ("fold_3"), the first few of another ("fold_3_A")."""
    own = letter == settings.experiment
    fold = partial(CarArm, network="teacher", experiment=letter, role="member")
    numbers = range(1, 1 + (FOLDS if own else settings.compare_folds))
    return {f"fold_{number}" if own else f"fold_{number}_{letter}": fold(fold=number) for number in numbers}


def letters_of(settings: CarKfoldSettings) -> list[str]:
    """All experiments, the run's own first."""
    return list(dict.fromkeys([settings.experiment, *META]))


def students(settings: CarKfoldSettings) -> tuple[partial, partial, partial]:
    """What makes arms that learn alone, from the ensemble as ``cache_teacher`` says, and from its stored outputs."""
    alone = partial(CarArm, experiment=settings.experiment)
    taught = partial(alone, TERMS, teacher="ensemble", outputs="stored" if settings.cache_teacher else "live")
    return alone, taught, partial(taught, outputs="stored")


def arms_of(settings: CarKfoldSettings) -> dict[str, CarArm]:
    """Of arms that train side by side the longest comes first, or one core would wait for it at the end.

    "teacher" is the mean of the folds in scores, and the best of them on validation as a network; "ensemble" is all of
    them as one network.
    """
    folds = {letter: fold_arms(settings, letter) for letter in letters_of(settings)}
    compared = {letter: tuple(arms)[: settings.compare_folds] for letter, arms in folds.items()}
    own, members = settings.experiment, tuple(folds[settings.experiment])
    together = partial(CarArm, network="ensemble", role="ensemble")
    alone, taught, stored = students(settings)
    compared_arms = {f"experiment_{k}": together(members=compared[k], experiment=k) for k in META if compared[k]}
    return {
        **{name: arm for arms in folds.values() for name, arm in arms.items()},
        "teacher": CarArm(network="teacher", members=members, experiment=own),
        "ensemble": together(members=members, experiment=own),
        **compared_arms,
        "long_baseline": alone(longer=settings.long),
        "baseline": alone(),
        "baseline_matched": alone(matches="distilled"),
        "distilled": taught(),
        "long_distilled": stored(longer=settings.long),
        "distilled_cached": stored(),
        "distilled_best_fold": stored(teacher="teacher"),
        "distilled_oof": stored(outputs="out_of_fold"),
        "few_labels_baseline": alone(labels=1),
        "few_labels_distilled": stored(labels=1),
    }


def ablations_of(settings: CarKfoldSettings) -> dict[str, CarArm]:
    """Arms that are trained on request."""
    alone, taught, stored = students(settings)
    return {
        "distilled_fold_1": stored(teacher="fold_1", role="control"),  # which knows no label that the student lacks
        "few_labels_oof": stored(outputs="out_of_fold", labels=1),
        "long_distilled_live": taught(longer=settings.long),
        "double_baseline": alone(longer=2.0),
        "double_distilled": stored(longer=2.0),
        "transductive_half": taught(test_half=True),
    }
