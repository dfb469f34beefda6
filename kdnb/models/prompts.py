"""Text prompts for the classes: read from an editable file, encoded, averaged to one vector per class.

A text encoder is any function ``encode(list of N texts) -> unit vectors (N, D)``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from kdnb.datasets.camvid import CLASSES
from kdnb.datasets.text import decode_text
from kdnb.errors import InputError
from kdnb.models.clip import encode_texts
from kdnb.options import Settings, did_you_mean

KINDS = ("label", "sentence", "bag_of_words", "orthogonal_concept")
WORDS = 4  # per class, besides its label

# --- prompts ----------------------------------------------------------------------------------------------------


class PromptSet(Settings):
    """Four kinds of prompts for each class; ``read_prompts`` reads them from a file.

    Attributes:
        label: {class: word}.
        sentence: {class: text}.
        bag_of_words: {class: four words that go with it}; classes may share words.
        orthogonal_concept: {class: four words}; no two classes share a word.
    """

    label: dict[str, str]
    sentence: dict[str, str]
    bag_of_words: dict[str, list[str]]
    orthogonal_concept: dict[str, list[str]]

    @pydantic.model_validator(mode="after")
    def _check(self) -> PromptSet:
        for kind in KINDS:
            check_classes(kind, getattr(self, kind))
        for kind in KINDS[2:]:
            for name in CLASSES:
                check_words(f"{kind}.{name}", self.texts(kind)[name])
        check_used_once(self.texts("orthogonal_concept"))
        return self

    def texts(self, kind: str) -> dict[str, list[str]]:
        """{class: texts to encode}: one text, or four words and then the label. Raises InputError on another kind."""
        if kind not in KINDS:
            raise InputError(f"unknown kind of prompt {kind!r}{did_you_mean(str(kind), list(KINDS))}")
        if kind in ("label", "sentence"):
            return {name: [getattr(self, kind)[name]] for name in CLASSES}
        return {name: [*getattr(self, kind)[name], self.label[name]] for name in CLASSES}


def check_classes(kind: str, given: Mapping[str, object]) -> None:
    """Raises ValueError unless exactly the known classes have a prompt that is not empty."""
    missing = [name for name in CLASSES if not given.get(name)]
    if missing:
        raise ValueError(f"{kind} has no prompt for the class {missing[0]!r}")
    unknown = [name for name in given if name not in CLASSES]
    if unknown:
        raise ValueError(f"{kind} has an unknown class {unknown[0]!r}{did_you_mean(unknown[0], list(CLASSES))}")


def check_words(where: str, words: Sequence[str]) -> None:
    """Raises ValueError unless these are four distinct words and a label that differs from them."""
    if len(words) != WORDS + 1:
        raise ValueError(f"{where} has {len(words) - 1} words, expected {WORDS}; the label is added to them")
    for i, word in enumerate(words):
        if not re.fullmatch(r"\S+", word):
            raise ValueError(f"{where}: {word!r} is not a single word")
        if word.lower() in {earlier.lower() for earlier in words[:i]}:
            raise ValueError(f"{where} has the word {word!r} twice (the label counts)")


def check_used_once(texts: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError if two classes share a word, ignoring case."""
    owner: dict[str, str] = {}
    for name, words in texts.items():
        for word in words:
            first = owner.setdefault(word.lower(), name)
            if first != name:
                raise ValueError(
                    f"orthogonal_concept uses the word {word!r} for {first} and for {name}, expected "
                    "each word for one class only"
                )


def read_prompts(path: str | Path | None = None) -> PromptSet:
    """The prompts of a YAML file; ``kdnb/models/prompts_camvid.yaml`` when no path is given.

    Raises:
        InputError: the file is missing or not YAML; a class is missing, unknown or without prompt; a number of words
            other than four, a duplicate word, or in ``orthogonal_concept`` a word of another class.
    """
    source = resources.files("kdnb.models") / "prompts_camvid.yaml" if path is None else Path(path)
    name = f"models/{source.name}" if path is None else str(path)
    try:
        content = yaml.safe_load(decode_text(source.read_bytes(), name, "a YAML file of prompts"))
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error}), expected a YAML file of prompts") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(
            f"{name}:{mark.line + 1 if mark else '?'}: not readable as YAML: "
            f"{getattr(error, 'problem', None) or 'syntax error'}"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{name}: expected the blocks {', '.join(KINDS)}")
    try:
        return PromptSet.model_validate(content)
    except pydantic.ValidationError as error:
        raise InputError(f"{name}: {explained(error.errors()[0])}") from None


def explained(problem: Mapping) -> str:
    """One line for a pydantic problem: where it is, the value, and what was expected."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"the block {where!r} is missing, expected {', '.join(KINDS)}"
    if problem["type"] == "extra_forbidden":
        return f"unknown block {where!r}{did_you_mean(where, list(KINDS))}"
    message = re.sub(r"^(Input should be|Value error,) ", "", problem["msg"])
    return f"{where} is {problem['input']!r}, expected {message}" if where else message


# --- text encoders ----------------------------------------------------------------------------------------------


def hashed_words(dim: int = 64) -> Callable[[Sequence[str]], Tensor]:
    """A text encoder without weights: a word is a random direction seeded by its hash, a text the sum of its words.

    Deterministic on all machines. It knows no meaning, only shared words: case is ignored, but "tree" and "trees" are
    as different as "tree" and "car". Different words have a cosine of 0 ± 1/√dim.

    Raises (the encoder):
        InputError: a text without a word.
    """

    def encode(texts: Sequence[str]) -> Tensor:
        rows = []
        for text in texts:
            words = re.findall(r"[^\W_]+", text.lower())
            if not words:
                raise InputError(f"the text {text!r} has no word, expected at least one")
            rows.append(np.sum([word_vector(word, dim) for word in words], 0))
        return F.normalize(torch.tensor(np.stack(rows), dtype=torch.float32), dim=-1)

    return encode


def word_vector(word: str, dim: int) -> np.ndarray:
    """A unit vector (dim,), deterministic by word (Python's own ``hash`` changes per process)."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    vector = np.random.Generator(np.random.PCG64(seed)).standard_normal(dim)
    return vector / np.linalg.norm(vector)


def clip_texts(model: nn.Module, tokenizer: Callable) -> Callable[[Sequence[str]], Tensor]:
    """The text tower of an open_clip model as an encoder, such as that of ``kdnb.models.clip``."""
    return lambda texts: encode_texts(model, tokenizer, list(texts))


# --- one vector per class ---------------------------------------------------------------------------------------


def class_embeddings(prompts: PromptSet, kind: str, encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """(11, D) unit vectors, in the order of ``CLASSES``, of one kind of prompts."""
    return embed_classes(prompts.texts(kind), encode)


@torch.no_grad()
def embed_classes(texts: Mapping[str, Sequence[str]], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """{class: texts} → (K, D): each text or word encoded separately, unit vectors averaged per class and normalised.

    Encoded as one text, the words would be read as a sentence and change each other's meaning.

    Raises:
        InputError: a class without a text.
    """
    for name, given in texts.items():
        if not given or not all(text.strip() for text in given):
            raise InputError(f"the prompt of class {name!r} is empty, expected words")
    vectors = F.normalize(encode([text for given in texts.values() for text in given]).float(), dim=-1)
    means = [part.mean(0) for part in vectors.split([len(given) for given in texts.values()])]
    return F.normalize(torch.stack(means), dim=-1)


def embedding_report(embeddings: Tensor) -> dict[str, Tensor | float]:
    """How well the embeddings (K, D) of K classes are separated.

    Returns:
        "cosine" (K, K); "mean_off_diagonal" and "max_off_diagonal" of it; "effective_rank": the exponential of the
        entropy of the singular values, normalised to a sum of 1 (Roy and Vetterli 2007, "The effective rank: a measure
        of effective dimensionality"). It is K when all classes are orthogonal, 1 when they are all the same.
    """
    unit = F.normalize(embeddings.double(), dim=-1)
    cosine = unit @ unit.T
    others = cosine[~torch.eye(len(unit), dtype=torch.bool, device=unit.device)]
    spectrum = torch.linalg.svdvals(unit)
    spectrum = spectrum / spectrum.sum()
    return {
        "cosine": cosine.float(),
        "mean_off_diagonal": others.mean().item(),
        "max_off_diagonal": others.max().item(),
        "effective_rank": torch.special.entr(spectrum).sum().exp().item(),
    }
