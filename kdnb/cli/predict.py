"""``kdnb predict``: a student's answers for a folder of photographs, in official formats."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdnb.cli.places import require_file, require_folder
from kdnb.datasets.archive_names import is_left_behind
from kdnb.errors import InputError

if TYPE_CHECKING:
    from kdnb.students import Student

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@click.command("predict")
@click.argument("dataset", type=click.Choice(["voc", "camvid", "cars"]))
@click.option("--images", required=True, metavar="DIR", help="A folder of photographs.")
@click.option("--out", required=True, metavar="DIR|CSV", help="voc, camvid: a folder; cars: a CSV file.")
@click.option("--arm", default="distilled", show_default=True, help="Which of the shipped students to use.")
@click.option("--weights", metavar="FILE", help="Use the student in this file instead.")
@click.option("--device", default="cpu", show_default=True, help="For example cuda.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1), help="Images per batch.")
@click.option("--draw", metavar="DIR", help="Also write each image here, with the prediction drawn on it.")
@click.pass_context
def command(
    context: click.Context,
    dataset: str,
    images: str,
    out: str,
    arm: str,
    weights: str | None,
    device: str,
    batch: int,
    draw: str | None,
) -> None:
    """Run a trained student on a folder of photographs.

    voc: comp4_det_test_<class>.txt, boxes by the file's stem. camvid: <stem>.png of class ids in the image's own size.
    cars: a CSV with ID, the file's stem, and a column of probabilities for each class. The files do not depend on the
    number of threads (KDNB_THREADS). An image that cannot be read is named and left out; the exit status is then 1.
    """
    from kdnb.run import set_threads
    from kdnb.students import load_student

    (require_file if dataset == "cars" else require_folder)("--out", out)
    if draw:
        require_folder("--draw", draw)
    student, paths, threads = load_student(dataset, arm, weights, device), photographs(Path(images)), set_threads()
    answers, faults = {}, 0
    for path, answer in ask(student, paths, batch, threads if device == "cpu" else 1, Path(draw) if draw else None):
        if isinstance(answer, InputError):
            click.echo(f"kdnb: {answer}", err=True)
            faults += 1
        else:
            answers[path.stem] = answer
    if not answers:
        raise InputError(f"{images}: none of its {len(paths)} images can be read")
    student.write(Path(out), answers)
    click.echo(f"{len(answers)} of {len(paths)} images: {out}")
    context.exit(1 if faults else 0)


def photographs(folder: Path) -> list[Path]:
    """The image files of a folder, by name. Raises InputError without any, and for two with the same stem."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one with images")
    paths = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and not is_left_behind(path.name)
    )
    if not paths:
        raise InputError(f"{folder}: no image in it, expected files that end in {', '.join(ENDINGS)}")
    stems: dict[str, Path] = {}
    for path in paths:
        if stems.setdefault(path.stem, path) != path:
            raise InputError(f"{folder}: {stems[path.stem].name} and {path.name} would share one answer, {path.stem!r}")
    return paths


def ask(student: Student, paths: list[Path], batch: int, threads: int, draw: Path | None) -> Iterator[tuple[Path, Any]]:
    """(path, answer, or an InputError) of each image, in order.

    Each batch runs on one thread, and several batches side by side: so a number's last digit, which depends on how a
    sum is shared out, does not depend on the number of threads.
    """
    import torch
    from tqdm import tqdm

    from kdnb.files import atomic_path
    from kdnb.students.student import as_pixels

    def read(path: Path) -> Any:
        try:
            return as_pixels(path)
        except InputError as error:
            return error

    def answer(part: list[Path]) -> list[tuple[Path, Any]]:
        read_images = [(path, read(path)) for path in part]
        good = [image for _, image in read_images if not isinstance(image, InputError)]
        answers = iter(student.predict(good) if good else [])
        both = [(path, image, image if isinstance(image, InputError) else next(answers)) for path, image in read_images]
        if draw is not None:
            draw.mkdir(parents=True, exist_ok=True)
            for path, image, one in both:
                if not isinstance(image, InputError):
                    with atomic_path(draw / f"{path.stem}.png") as part_file:
                        student.draw(image, one).save(part_file, "PNG")
        return [(path, one) for path, _, one in both]

    parts = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(paths), unit="image", disable=None) as bar:
        for done in pool.map(answer, parts):
            bar.update(len(done))
            yield from done
