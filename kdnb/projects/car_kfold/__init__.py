"""06 Cars, five folds: an ensemble of five networks teaches a small one, with more than a label says."""

from kdnb.projects.car_kfold.arms import CarArm, arms_of
from kdnb.projects.car_kfold.data import CarKfoldSettings, open_data, split_folds
from kdnb.projects.car_kfold.experiment import CarKfold
from kdnb.projects.car_kfold.submissions import write_submissions
from kdnb.projects.car_kfold.teachers import out_of_fold, stored_logits
from kdnb.projects.car_kfold.terms import build_distiller, cooling

__all__ = [
    "CarArm",
    "CarKfold",
    "CarKfoldSettings",
    "arms_of",
    "build_distiller",
    "cooling",
    "open_data",
    "out_of_fold",
    "split_folds",
    "stored_logits",
    "write_submissions",
]
