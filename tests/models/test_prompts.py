import math
import re
from importlib import resources

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from kdnb.datasets.camvid import CLASSES
from kdnb.errors import InputError
from kdnb.models.clip import build_tokenizer, encode_texts, lite_teacher
from kdnb.models.prompts import (
    KINDS,
    class_embeddings,
    clip_texts,
    embed_classes,
    embedding_report,
    hashed_words,
    read_prompts,
)


@pytest.fixture(scope="module")
def prompts():
    return read_prompts()


@pytest.fixture
def content():
    text = resources.files("kdnb.models").joinpath("prompts_camvid.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def refused(tmp_path, content):
    """The message that a file of this content is refused with."""
    path = tmp_path / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(InputError) as told:
        read_prompts(path)
    assert "\n" not in str(told.value) and str(told.value).startswith(str(path))
    return str(told.value)[len(str(path)) :]


# --- the file ---------------------------------------------------------------------------------------------------


def test_each_kind_has_texts_for_all_classes_in_order(prompts):
    counts = {"label": 1, "sentence": 1, "bag_of_words": 5, "orthogonal_concept": 5}
    for kind in KINDS:
        texts = prompts.texts(kind)
        assert tuple(texts) == CLASSES and {len(given) for given in texts.values()} == {counts[kind]}
    assert all(prompts.texts(kind)[name][-1] == name for kind in KINDS[2:] for name in CLASSES)
    with pytest.raises(InputError, match="'orthogonal'; did you mean 'orthogonal_concept'"):
        prompts.texts("orthogonal")


def test_what_our_own_prompts_promise(prompts):
    for name, (sentence,) in prompts.texts("sentence").items():
        assert set(re.findall("[a-z]+", sentence.lower())) & set(CLASSES) == {name}
    words = [word for given in prompts.texts("orthogonal_concept").values() for word in given]
    assert len(words) == len(set(words)) == 55
    shared = [word for given in prompts.texts("bag_of_words").values() for word in given]
    assert len(set(shared)) < 55  # or there would be nothing to compare


def test_a_file_of_ones_own(tmp_path, content, prompts):
    content["sentence"]["car"] = "A shiny car."
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    mine = read_prompts(path)
    assert mine.texts("sentence")["car"] == ["A shiny car."] and mine.texts("label") == prompts.texts("label")


def test_a_class_without_prompt_is_named(tmp_path, content):
    del content["bag_of_words"]["fence"]
    assert refused(tmp_path, content) == ": bag_of_words has no prompt for the class 'fence'"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["label"].update(fence=""), "label has no prompt for the class 'fence'"),
        (lambda c: c["label"].update(bike="bike"), "label has an unknown class 'bike'"),
        (lambda c: c.pop("sentence"), "the block 'sentence' is missing"),
        (lambda c: c.update(sentances={}), "unknown block 'sentances'; did you mean 'sentence'?"),
        (lambda c: c["label"].update(car=3), "label.car is 3, expected a valid string"),
        (lambda c: c["bag_of_words"]["car"].pop(), "bag_of_words.car has 3 words, expected 4"),
        (lambda c: c["bag_of_words"]["car"].__setitem__(1, "car"), "bag_of_words.car has the word 'car' twice"),
        (lambda c: c["bag_of_words"]["car"].__setitem__(1, "a car"), "'a car' is not a single word"),
        (lambda c: c["bag_of_words"]["car"].__setitem__(1, ""), "bag_of_words.car: '' is not a single word"),
        (lambda c: c["orthogonal_concept"]["car"].__setitem__(3, "Roof"), "the word 'Roof' for building and for car"),
        (lambda c: c["orthogonal_concept"]["tree"].__setitem__(0, "pole"), "the word 'pole' for pole and for tree"),
    ],
)
def test_departures_are_named(tmp_path, content, change, message):
    change(content)
    assert message in refused(tmp_path, content)


def test_broken_files_are_named(tmp_path):
    assert re.match(r":2: not readable as YAML", refused(tmp_path, "label: [a, b\nsentence: x\n"))
    assert "expected the blocks label, sentence" in refused(tmp_path, "- label\n")
    with pytest.raises(InputError, match="nowhere.yaml: cannot be read"):
        read_prompts(tmp_path / "nowhere.yaml")
    path = tmp_path / "marked.yaml"
    for coding in ("utf-8-sig", "utf-16"):
        path.write_text(yaml.safe_dump(read_prompts().model_dump()), encoding=coding)
        assert read_prompts(path) == read_prompts()
    path.write_bytes(b"label:\n  \xff")
    with pytest.raises(InputError, match=r"marked.yaml:2: byte 0xff is not UTF-8, expected a YAML file of prompts"):
        read_prompts(path)


# --- encoders ---------------------------------------------------------------------------------------------------


def test_hashed_words_are_the_same_everywhere():
    car, road = hashed_words(4)(["car", "road"])
    assert car.tolist() == pytest.approx([0.5803096, 0.5596320, 0.5885285, 0.0607215], abs=1e-6)
    assert road.tolist() == pytest.approx([-0.6931792, -0.2597226, -0.4510023, 0.4986418], abs=1e-6)


def test_a_hashed_text_is_the_sum_of_its_words():
    encode = hashed_words(64)
    red, car, both, again = encode(["red", "car", "Red car.", "car, red"])
    assert torch.allclose(both, F.normalize(red + car, dim=0), atol=1e-6) and torch.allclose(both, again, atol=1e-6)
    assert torch.allclose(torch.stack([red, car, both]).norm(dim=1), torch.ones(3))
    with pytest.raises(InputError, match="'--' has no word"):
        encode(["car", "--"])


def test_different_hashed_words_are_nearly_orthogonal():
    vectors = hashed_words(64)([f"word{i}" for i in range(400)])
    cosines = (vectors @ vectors.T)[~torch.eye(400, dtype=torch.bool)]
    assert abs(cosines.mean()) < 0.01 and cosines.std().item() == pytest.approx(1 / 8, rel=0.05)


def test_a_text_tower_encodes_each_word_by_itself(prompts):
    torch.manual_seed(0)
    model = lite_teacher(embed_dim=16)
    tokenizer = build_tokenizer()
    found = class_embeddings(prompts, "bag_of_words", clip_texts(model, tokenizer))
    words = encode_texts(model, tokenizer, ["traffic", "wheels", "windows", "lane", "car"]).numpy()
    mean = (words / np.linalg.norm(words, axis=1, keepdims=True)).mean(0)
    car = CLASSES.index("car")
    assert found[car].tolist() == pytest.approx((mean / np.linalg.norm(mean)).tolist(), abs=1e-5)
    as_one = encode_texts(model, tokenizer, ["traffic wheels windows lane car"])[0]
    assert found.shape == (11, 16) and not torch.allclose(found[car], as_one, atol=1e-2)


def test_embeddings_are_unit_vectors_also_of_an_encoder_that_gives_none():
    found = embed_classes({"a": ["x"], "b": ["x", "y"]}, lambda texts: torch.tensor([[3.0, 0], [3, 0], [0, 5]]))
    assert torch.allclose(found, torch.tensor([[1.0, 0], [0.5**0.5, 0.5**0.5]]))
    for empty in ([], [" "]):
        with pytest.raises(InputError, match="class 'b' is empty"):
            embed_classes({"a": ["x"], "b": empty}, hashed_words())


# --- the report -------------------------------------------------------------------------------------------------


def test_report_of_orthogonal_and_of_equal_classes():
    apart = embedding_report(torch.eye(11, 20))
    assert apart["effective_rank"] == pytest.approx(11) and apart["max_off_diagonal"] == pytest.approx(0)
    same = embedding_report(torch.ones(11, 20))
    assert same["effective_rank"] == pytest.approx(1, abs=1e-4) and same["mean_off_diagonal"] == pytest.approx(1)


def test_report_of_two_vectors_by_hand():
    # at an angle of 60 degrees the Gram matrix has the eigenvalues 1.5 and 0.5
    found = embedding_report(torch.tensor([[2.0, 0], [0.5, 0.5 * math.sqrt(3)]]))
    shares = np.sqrt([1.5, 0.5]) / np.sqrt([1.5, 0.5]).sum()
    assert found["cosine"].tolist() == pytest.approx(np.array([[1, 0.5], [0.5, 1]]), abs=1e-6)
    assert found["mean_off_diagonal"] == pytest.approx(0.5) == found["max_off_diagonal"]
    assert found["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_words_of_ones_own_keep_classes_further_apart_than_shared_ones(prompts):
    reports = {kind: embedding_report(class_embeddings(prompts, kind, hashed_words(512))) for kind in KINDS}
    assert abs(reports["orthogonal_concept"]["mean_off_diagonal"]) < 0.02
    assert reports["orthogonal_concept"]["mean_off_diagonal"] < reports["bag_of_words"]["mean_off_diagonal"]
    assert reports["bag_of_words"]["mean_off_diagonal"] < reports["sentence"]["mean_off_diagonal"]  # "the", "a", "of"
    assert reports["orthogonal_concept"]["effective_rank"] > reports["sentence"]["effective_rank"]
