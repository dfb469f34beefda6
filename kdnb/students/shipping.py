"""The students that git keeps: their files, a card for each project, and photographs on which the course shows them.

``data/photographs/README.md`` credits the photographs.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.torch import load_file, save
from torch import Tensor

from kdnb.errors import InputError
from kdnb.evidence import paired_bootstrap
from kdnb.files import atomic_write
from kdnb.report import markdown_table
from kdnb.students.student import SHIPPED, as_pixels, kind_of, save_student

PHOTOGRAPHS = SHIPPED.parent / "photographs"
ARMS = ("baseline", "distilled", "few_labels_baseline", "few_labels_distilled")
MAX_BYTES = 2_500_000  # of one student
START, END = "<!-- scores: made by kdnb publish --students -->", "<!-- end of scores -->"  # of a card


def ship(experiment: Any) -> list[Path]:
    """Write the students of a finished run, their scores on their card, and its teacher's answers on the photographs.

    Returns the paths. Nothing is written unless all four students are trained and small enough.

    Raises:
        InputError: a run that lacks one of the four arms, or was not trained on photographs; a student that is too
            large.
    """
    run, number, kind = experiment.run, experiment.project[:2], kind_of(experiment.project)
    if run.profile in ("smoke", "lite"):
        raise InputError(f"{run.folder}: a run of {experiment.project} in profile {run.profile} ships no student")
    lacking = [arm for arm in ARMS if not (run.folder / "arms" / f"{arm}.json").is_file()]
    if lacking:
        raise InputError(f"{run.folder}: lacks the arm {lacking[0]!r}; go on with --run {run.folder}")
    page = SHIPPED / f"{number}.md"
    text = with_scores(page.read_text(encoding="utf-8"), experiment)
    with TemporaryDirectory() as folder:
        made = [save_student(experiment, arm, Path(folder) / f"{number}_{arm}.safetensors") for arm in ARMS]
        contents = {SHIPPED / path.name: path.read_bytes() for path in made}
    for path, content in contents.items():
        if len(content) > MAX_BYTES:
            raise InputError(f"{path} would take {len(content):,} bytes, expected at most {MAX_BYTES:,}")
    paths = [atomic_write(path, content) for path, content in contents.items()]
    answers = {path.stem: kind.teachers_answer(experiment, as_pixels(path)) for path in photographs(number)}
    tensors = {f"{name}/{key}": tensor for name, one in answers.items() for key, tensor in parts(one).items()}
    paths.append(atomic_write(PHOTOGRAPHS / f"{number}_teacher.safetensors", save(tensors)))
    return [*paths, atomic_write(page, text)]


def photographs(number: str) -> list[Path]:
    """The photographs on which a project's students are shown. Raises InputError where the course lacks them."""
    paths = [PHOTOGRAPHS / f"{name}.jpg" for name in kind_of(number).shown_on]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{missing[0]}: no such file, expected the course's folder with its photographs")
    return paths


def parts(answer: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """An answer as named tensors, as safetensors keeps them."""
    named = answer if isinstance(answer, dict) else {"": answer}
    return {key: tensor.detach().cpu().contiguous() for key, tensor in named.items()}


def teachers_answers(number: str) -> dict[str, Any]:
    """photograph's name → the answer of a project's teacher, as its students answer. {} where none is kept."""
    path = PHOTOGRAPHS / f"{number}_teacher.safetensors"
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in (load_file(path) if path.is_file() else {}).items():
        photograph, _, part = name.partition("/")
        found.setdefault(photograph, {})[part] = tensor
    return {name: one.get("", one) for name, one in found.items()}


# --- the card ---------------------------------------------------------------------------------------------------


def with_scores(text: str, experiment: Any) -> str:
    """The card of a project's students with the scores of a run between its markers.

    Raises InputError if the card has no markers.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise InputError(f"the card of {experiment.project} lacks the lines {START} and {END}; expected both")
    return f"{before}{start}\n\n{scores(experiment)}\n{end}{after}"


def scores(experiment: Any) -> str:
    """A Markdown table of the students: score on test, its 95 % interval over test images, parameters, CPU seconds."""
    primary, digits = experiment.primary, 1 if experiment.higher_is_better else 2
    header = ["student", f"{primary.replace('_', ' ')} on test", "95 % interval", "parameters", "training, CPU s"]
    rows = []
    for arm in ARMS:
        numbers = experiment.train(arm).numbers
        metric, items = experiment.bootstrap_metric(arm)
        low, high = paired_bootstrap(lambda weights: np.zeros(len(weights)), metric, items).ci95
        score = [f"{numbers[primary]:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"]
        rows.append([f"`{arm}`", *score, f"{numbers['params']:,.0f}", f"{numbers['train_s']:,.0f}"])
    return markdown_table(header, rows)
