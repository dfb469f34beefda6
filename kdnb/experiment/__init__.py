"""What every project does, written once: the order of its arms, training, keeping, comparing, the command line."""

from kdnb.experiment.arms import Arm, ArmResult
from kdnb.experiment.experiment import Experiment
from kdnb.experiment.settings import TrainSettings

__all__ = ["Arm", "ArmResult", "Experiment", "TrainSettings"]
