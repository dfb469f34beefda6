"""Readers who cannot see: every picture in prose exists, has words that say what it shows, and a caption below."""

import re
from pathlib import Path

import pytest

from kdnb.notebooks import read_notebook

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "data").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")),
]
PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<target>[^)\s]+)[^)]*\)")
CAPTION = re.compile(r"\n\n\*[^*]")
FEWEST_WORDS = 8  # of what a picture shows; a badge has three: "Open in Colab"


def prose(path: Path) -> list[str]:
    """Markdown without code, in which "![a](b)" would be an example."""
    if path.suffix == ".md":
        texts = [path.read_text(encoding="utf-8")]
    else:
        texts = [cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown"]
    return [re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)) for text in texts]


def faults(text: str, folder: Path) -> list[str]:
    """What is wrong with the pictures of a piece of Markdown that lies in ``folder``."""
    found = [f"{tag}: HTML; write ![what it shows](file)" for tag in re.findall(r"<img[^>]*>", text)]
    for picture in PICTURE.finditer(text):
        alt, target = picture["alt"], picture["target"]
        badge = target.endswith(".svg")
        if len(alt.split()) < (3 if badge else FEWEST_WORDS):
            found.append(f"{target}: the alternative text {alt!r} does not say what the picture shows")
        if not badge and not CAPTION.match(text, picture.end()):
            found.append(f"{target}: no caption in *italics* in the paragraph below")
        if re.match(r"https?:|attachment:", target):
            found.append(f"{target}: expected a file beside the text; a page that loads is not to ask strangers")
        elif not (folder / target).is_file():
            found.append(f"{target}: no such file")
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_pictures_in_prose_can_be_read(path):
    assert [fault for text in prose(path) for fault in faults(text, path.parent)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_in_prose_lead_somewhere(path):
    links = [target for text in prose(path) for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)", text)]
    targets = [target.split("#")[0] for target in links]
    own = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in own if not (path.parent / target).exists()] == []


def test_the_readme_and_every_notebook_begin_with_a_picture():
    begin = {path.name: next(iter(prose(path))) for path in DOCUMENTS if path.parent.name != "data"}
    assert [name for name, text in begin.items() if not PICTURE.search(text)] == []


GOOD = "![Two cars, a red one on the left and a blue one on the right]({})\n\n*Cars of this run.*"


def test_a_good_picture_passes(tmp_path):
    (tmp_path / "cars.png").touch()
    assert faults(GOOD.format("cars.png"), tmp_path) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (GOOD.format("other.png"), "no such file"),
        (GOOD.format("https://example.org/cars.png"), "strangers"),
        ("![](cars.png)\n\n*Cars of this run.*", "alternative"),
        ("![cover](cars.png)\n\n*Cars of this run.*", "alternative"),
        (GOOD.format("cars.png").split("\n")[0] + "\n\nNo caption, just the next paragraph.", "caption"),
        (GOOD.format("cars.png").split("\n")[0] + "\n\n**Question.** Not a caption either.", "caption"),
        ('<img src="cars.png" alt="Two cars, a red one on the left and a blue one">', "HTML"),
    ],
)
def test_a_bad_picture_is_found(text, word, tmp_path):
    (tmp_path / "cars.png").touch()
    (fault,) = faults(text, tmp_path)
    assert word in fault
