"""One file per student: weights in half precision, and metadata with everything that is needed to use them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kdnb import projects
from kdnb.datasets.images import as_rgb, opened
from kdnb.errors import InputError
from kdnb.files import atomic_write
from kdnb.options import did_you_mean

ImageLike = Tensor | np.ndarray | Image.Image | str | Path
SHIPPED = Path(__file__).parents[2] / "data" / "students"


class Student(ABC):
    """A trained student. ``student(image)`` predicts for one image, ``student.predict(images)`` for several.

    A project's class defines how its network is built, what an answer is, and to which files answers are written.

    Attributes:
        project: as in ``Project``; dataset: its name in ``kdnb predict``.
        shown_on: the photographs in ``data/photographs`` on which the course shows it.
        about: the file's metadata: project, arm, seed, profile, classes, scores, and what ``facts`` of the class adds.
        network: in eval mode.
    """

    project: ClassVar[str]
    dataset: ClassVar[str]
    shown_on: ClassVar[tuple[str, ...]] = ()

    def __init__(self, about: dict[str, Any]):
        self.about, self.classes = about, tuple(about["classes"])
        self.network = self.build().eval().requires_grad_(False)

    @staticmethod
    def facts(experiment: Any) -> dict[str, Any]:
        """What ``build`` and ``answer`` need to know of the run, as JSON types; a class adds its "classes"."""
        settings = experiment.settings.offline()
        return {"network": settings.student.model_dump(mode="json"), "size": settings.size}

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with random weights."""

    @abstractmethod
    def answer(self, images: list[Tensor]) -> list[Any]:
        """The network's answers for images uint8 (3, H, W), on the CPU."""

    @staticmethod
    def teachers_answer(experiment: Any, image: Tensor) -> Any:
        """What a run's teacher says of an image uint8 (3, H, W), as students do; only ``shown_on`` needs it."""
        raise NotImplementedError

    @abstractmethod
    def write(self, out: Path, answers: dict[str, Any]) -> None:
        """Write answers, by the images' names, in the official format of the data set."""

    @abstractmethod
    def draw(self, image: Tensor, answer: Any) -> Image.Image:
        """An image uint8 (3, H, W) with its answer drawn on it."""

    @abstractmethod
    def deployed(self) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """For ``export``: a module of plain tensors, an example of its inputs by name, and names of its outputs."""

    def __call__(self, image: ImageLike) -> Any:
        return self.predict([image])[0]

    def predict(self, images: Sequence[ImageLike]) -> list[Any]:
        """Answers for images: paths, PIL images, or uint8 arrays (H, W, 3) or tensors (3, H, W), of any sizes."""
        with torch.inference_mode():
            return self.answer([as_pixels(image) for image in images])

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


# --- files ------------------------------------------------------------------------------------------------------


def save_student(experiment: Any, arm: str, path: str | Path) -> Path:
    """Write a finished arm's student as one file; its weights are rounded to half precision."""
    kind = student_kinds()[experiment.project]
    result, run = experiment.train(arm), experiment.run
    numbers = {key: value for key, value in result.numbers.items() if isinstance(value, (int, float))}
    about = {"project": experiment.project, "arm": arm, "profile": run.profile, "seed": run.seed, "scores": numbers}
    tensors = {
        name: tensor.detach().cpu().to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in result.model.state_dict().items()
    }
    metadata = {"kdnb": json.dumps({**about, **kind.facts(experiment)})}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return atomic_write(path, save(tensors, metadata))


def load_student(
    project: str, arm: str = "distilled", weights: str | Path | None = None, device: str = "cpu"
) -> Student:
    """A student that ships with the course, or one from a file.

    Args:
        project: its number, such as "03", or its data set, such as "voc".
        weights: a file of ``save_student``; None for the one in ``data/students``.

    Raises:
        InputError: no such student; a file that is not a student, or is one of another project.
    """
    kind = kind_of(project)
    name = kind.project
    path = shipped(name, arm) if weights is None else Path(weights)
    about, tensors = read_student(path)
    if about["project"] != name:
        raise InputError(f"{path}: is a student of {about['project']}, expected one of {name}")
    student = kind(about)
    student.network.load_state_dict(tensors)
    student.network.to(device)
    return student


def kind_of(project: str) -> type[Student]:
    """The ``Student`` of a project: of its number, its name or its data set. Raises InputError if there is none."""
    kinds = student_kinds()
    found = [kind for name, kind in kinds.items() if project in (name, name[:2], kind.dataset)]
    if not found:
        raise InputError(f"no student of {project!r}, expected one of {', '.join(kinds)}")
    return found[0]


def shipped(project: str, arm: str) -> Path:
    """The file of a student in ``data/students``. Raises InputError if it is not there, naming those that are."""
    path = SHIPPED / f"{project[:2]}_{arm}.safetensors"
    if not path.is_file():
        there = [file.stem[3:] for file in sorted(SHIPPED.glob(f"{project[:2]}_*.safetensors"))]
        where = did_you_mean(arm, there) if there else f": {SHIPPED} has none of it; give a file as weights"
        raise InputError(f"no shipped student {arm!r} of {project}{where}")
    return path


def read_student(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and float32 weights of a file. Raises InputError if it is none of ``save_student``."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["kdnb"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: not a student's file ({error}), expected one that save_student wrote") from None
    return about, {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def student_kinds() -> dict[str, type[Student]]:
    """ "03_voc_defeat" -> its ``Student``: a module in this folder, or ``student.py`` in the project's own."""
    own = [f"{__package__}.{one.name}" for one in iter_modules([str(Path(__file__).parent)])]
    folders = [Path(place) / one.name for place in projects.__path__ for one in iter_modules([place])]
    others = [f"{projects.__name__}.{one.name}.student" for one in folders if (one / "student.py").is_file()]
    names = own + others
    found = [kind for name in names for kind in vars(import_module(name)).values() if isinstance(kind, type)]
    kinds = {kind.project: kind for kind in found if issubclass(kind, Student) and hasattr(kind, "project")}
    return dict(sorted(kinds.items()))


# --- images -----------------------------------------------------------------------------------------------------


def as_pixels(image: ImageLike) -> Tensor:
    """An image as uint8 (3, H, W). A file or PIL image is turned as its EXIF orientation says.

    Raises:
        InputError: a file that cannot be read, an array of another type or shape.
    """
    if isinstance(image, (str, Path)):
        with opened(image, "JPEG or PNG") as stored:
            image = as_rgb(ImageOps.exif_transpose(stored))
    if isinstance(image, Image.Image):
        image = as_rgb(ImageOps.exif_transpose(image))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0)
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"image is {image.dtype} {tuple(image.shape)}, expected uint8 and three colours")
    return image
