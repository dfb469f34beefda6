"""The exercises at the end of 00, 03, 05 and 06: a reader's function is compared with the library's on random inputs.

A wrong answer is compared with typical mistakes, and the reader is told which one it is. The answers, with
explanations, are in ``notebooks/solutions.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from kdnb.exercises.checking import Exercise, check, check_guess, repeated_mistakes
from kdnb.exercises.losses import centred_error, kd_gradient, pkd_loss, relation_loss
from kdnb.exercises.scores import ensemble_logits, iou_per_class, level_of, mean_log_loss

__all__ = ["EXERCISES", "check_code", "check_guess", "repeated_mistakes"]

EXERCISES: dict[str, dict[str, Callable[[], Exercise]]] = {
    "00": {"kd_gradient": kd_gradient, "relation_loss": relation_loss},
    "03": {"pkd_loss": pkd_loss, "level_of": level_of},
    "05": {"centred_error": centred_error, "iou_per_class": iou_per_class},
    "06": {"ensemble_logits": ensemble_logits, "mean_log_loss": mean_log_loss},
}


def check_code(notebook: str, *answers: Callable) -> None:
    """Print a line for each code exercise of a notebook, "00" for example; ``answers`` in the order of the exercises.

    What an answer raises is not caught: the reader sees the error of their own code.
    """
    for number, ((name, exercise), answer) in enumerate(zip(EXERCISES[notebook].items(), answers, strict=True), 1):
        print(f"{number}. {name}: {check(answer, *exercise())}")
