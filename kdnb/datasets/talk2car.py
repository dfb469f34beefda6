"""Talk2Car, photographed or rendered, in the official layout: an image, a command to the driver, the box of the thing
that the command refers to; and a checker that reads a whole root and names every fault in it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from kdnb.datasets.folders import names_in
from kdnb.datasets.images import read_image, rotated
from kdnb.datasets.notes import closing, skipped, unforeseen
from kdnb.datasets.talk2car_files import (
    COMMAND_PLACES,
    HEIGHT,
    SPLITS,
    WIDTH,
    Command,
    find_commands,
    find_images,
    find_proposals,
    image_path,
    is_small,
    names_colour,
    names_side,
    parse_commands,
    read_commands,
    read_proposals,
    to_pixels,
)
from kdnb.errors import InputError

__all__ = [
    "HEIGHT",
    "WIDTH",
    "Command",
    "Talk2Car",
    "Talk2CarReport",
    "check_talk2car",
    "hold_out",
    "read_commands",
    "to_pixels",
]


class Talk2Car(torch.utils.data.Dataset):
    """Commands of one split. ``t2c[i]`` is a dict of

    - ``token``, ``command``: id and text of the command;  ``name``: category of the target
    - ``image_path``: several commands may share an image; ``image(i)`` decodes it
    - ``box``: float32 (4,), x1, y1, x2, y2 in 1600 x 900 for images of any size; None in a test set without boxes
    - ``proposals``: float32 (P, 4) in 1600 x 900 and ``scores`` (P,), best first, if the root has a proposals file
    - ``twin``: "colour" or "side", all that tells the thing at ``twin_box`` from the target; None without annotation

    ``commands`` holds the same as a list of Command. ``top`` keeps only the best ``top`` proposals (the
    official baseline: 32 of 64). Boxes go to an image's own pixels with ``to_pixels(boxes, width, height)``.

    Raises InputError, naming file and command, for missing files (and where to get them), departures from the official
    format, missing images and images without proposals.
    """

    def __init__(self, root: str | Path, split: str, top: int | None = None):
        self.root, self.split = Path(root), split
        self.path = find_commands(root, split)
        self.commands = read_commands(self.path, blind=split == "test")
        self.images = find_images(root, split, self.commands[0].image)
        self.paths, faults = _image_paths(self.path, self.images, self.commands)
        if faults:  # better now than an hour into training
            raise InputError(faults[0])
        self.proposals = None
        proposals = find_proposals(root)
        if proposals is not None:
            self.proposals = read_proposals(proposals, split)
            fault = next(_missing_proposals(proposals, self.proposals, self.commands), None)
            if fault:
                raise InputError(fault)
            self.proposals = {token: (b[:top], s[:top]) for token, (b, s) in self.proposals.items()}

    def __len__(self) -> int:
        return len(self.commands)

    def __getitem__(self, index: int) -> dict:
        command = self.commands[index]
        item = {
            "token": command.token,
            "command": command.text,
            "name": command.name,
            "image_path": self.paths[command.image],
            "box": _tensor(command.box),
            "twin": command.twin,
            "twin_box": _tensor(command.twin_box),
        }
        if self.proposals is not None:
            boxes, scores = self.proposals[command.token]
            item |= {"proposals": torch.from_numpy(boxes.copy()), "scores": torch.from_numpy(scores.copy())}
        return item

    def image(self, index: int) -> torch.Tensor:
        """The command's image, uint8 (3, H, W), RGB. Raises InputError when it is truncated or no image."""
        image = read_image(self.paths[self.commands[index].image])
        return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def _tensor(box):
    return None if box is None else torch.tensor(box, dtype=torch.float32)


def _image_paths(path, folder, commands):
    """({image as written: file}, faults): a fault for each image that is missing, and for names of two folders for one
    file, as where only the last parts of longer paths were kept."""
    paths, faults, written = {}, [], {}
    for command in commands:
        if command.image in paths:
            continue
        file = image_path(folder, command.image)
        paths[command.image] = file
        if file is None:
            missing = folder / command.image
            faults.append(f"{missing}: no such image, expected it for command {command.token} of {path}")
        elif written.setdefault(file, command.image) != command.image:
            found = f"{path}: command {command.token}: images {written[file]} and {command.image} are one file, {file}"
            faults.append(f"{found}, expected a file for each")
    return paths, faults


def hold_out(commands: list[Command], share: float = 1 / 8) -> tuple[list[Command], list[Command]]:
    """(kept, held out): whole scenes, from the last one on, until they hold at least ``share`` of the commands.

    Images of one scene show the same street seconds apart: cut within a scene, selection would use what was learned.
    A command without a scene counts by its image.

    Raises:
        InputError: commands of a single scene.
    """
    scenes = [command.scene or command.image for command in commands]
    held: set[str] = set()
    count = 0
    for scene in reversed(dict.fromkeys(scenes)):
        if count >= share * len(commands):
            break
        held.add(scene)
        count += scenes.count(scene)
    if count == len(commands):
        raise InputError(f"train has {len(set(scenes))} scene, expected at least two: the last one is held out")
    pairs = list(zip(commands, scenes, strict=True))
    return [c for c, scene in pairs if scene not in held], [c for c, scene in pairs if scene in held]


def _missing_proposals(path, proposals, commands):
    """A fault for each command without proposals."""
    for command in commands:
        boxes, _ = proposals.get(command.token, ((), ()))
        if not len(boxes):
            yield f"{path}: no proposals for command {command.token} ({command.image}), expected some for each command"


@dataclass
class Talk2CarReport:
    """The result of :func:`check_talk2car`: ``counts`` split → {what: how many}; ``notes`` of what was skipped or is
    rotated and ``faults``, one line each."""

    root: Path
    counts: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    def summary(self) -> str:
        """A table of counts per split, then every note and fault on a line of its own."""
        lines = [f"{self.root}"]
        if self.counts:
            lines.append(f"{'':<22}" + "".join(f"{split:>8}" for split in self.counts))
            for what in next(iter(self.counts.values())):
                lines.append(f"{what:<22}" + "".join(f"{counts[what]:>8}" for counts in self.counts.values()))
        return "\n".join([*lines, *closing(self.notes, self.faults)])

    __str__ = summary


def check_talk2car(root: str | Path) -> Talk2CarReport:
    """Read all commands, images and proposals below ``root``; report counts per split and every fault.

    Raises InputError only when there is no split.
    """
    report, root = Talk2CarReport(Path(root)), Path(root)
    splits = [s for s in SPLITS if any((root / place.format(s)).is_file() for place in COMMAND_PLACES)]
    if not splits:
        find_commands(root, SPLITS[0])  # raises
    used: list[Path] = []
    for split in splits:
        try:
            commands, faults = parse_commands(find_commands(root, split), blind=split == "test")
        except InputError as error:
            report.faults.append(str(error))
            continue
        report.faults += faults
        report.counts[split] = _counts(commands)
        if commands:
            faults, images = _image_faults(root, split, commands)
            report.faults += faults
            used += images
        report.faults += _proposal_faults(root, split, commands, report.counts[split])
    report.notes = _notes(used)
    return report


def _notes(used):
    """Files in the folders of images that no command names, and images that EXIF data would turn: a line a folder."""
    notes = []
    for folder in sorted({path.parent for path in used}):
        unused = sorted(names_in(folder) - {path.name for path in used if path.parent == folder})
        if unused:
            notes.append(skipped(folder, unused, "in no command"))
    return notes + rotated(used)


def _counts(commands):
    boxes = [c.box for c in commands if c.box is not None]
    return {
        "commands": len(commands),
        "images": len({c.image for c in commands}),
        "scenes": len({c.scene for c in commands}),
        "boxes": len(boxes),
        "  smaller than 64 x 64": sum(map(is_small, boxes)),
        "name a colour": sum(names_colour(c.text) for c in commands),
        "name a side": sum(names_side(c.text) for c in commands),
        "with a twin": sum(c.twin is not None for c in commands),
        "proposals": 0,
    }


def _image_faults(root, split, commands):
    """(faults, files) of the images that the commands name."""
    try:
        folder = find_images(root, split, min(c.image for c in commands))
    except InputError as error:
        return [str(error)], []
    paths, faults = _image_paths(find_commands(root, split), folder, commands)

    def fault(file):
        try:
            read_image(file)
        except InputError as error:
            return str(error)
        except Exception as error:
            return unforeseen(file, error, "a JPEG file")

    files = sorted({file for file in paths.values() if file is not None})
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        found = list(tqdm(pool.map(fault, files), total=len(files), desc=f"check {split}", disable=None))
    return faults + [text for text in found if text], files


def _proposal_faults(root, split, commands, counts):
    """Faults in the proposals of a split, if the root has any; adds their number to ``counts``."""
    path = find_proposals(root)
    if path is None:
        return []
    try:
        proposals = read_proposals(path, split)
    except InputError as error:
        return [str(error)]
    counts["proposals"] = int(np.sum([len(boxes) for boxes, _ in proposals.values()]))
    return list(_missing_proposals(path, proposals, commands))
