"""01 COCO alignment: sentences and their truth, arms, the cache, the command line, photographs."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import carry_out, end_workers

from kdnb.datasets.region_splits import read_regions, regions_of, some_images
from kdnb.datasets.region_views import VIEWS, RegionViews
from kdnb.errors import InputError
from kdnb.experiment import ArmResult
from kdnb.experiment.step_cost import bench_table
from kdnb.options import load_settings
from kdnb.projects import coco_alignment as project
from kdnb.projects.coco_alignment import CocoAlignment, encode_crops
from kdnb.projects.coco_alignment.__main__ import main
from kdnb.projects.coco_alignment.sentences import (
    FACTS,
    NAMED,
    WORDINGS,
    CaptionedRegions,
    collate_captioned,
    facts_of,
    is_true,
    sentence,
)
from kdnb.run import Run

NO_COCO = Path(__file__).parents[2] / "notebooks" / "images"  # a folder without a data set


def settings_of(**changes):
    return load_settings(project.CocoAlignmentSettings, "smoke", **changes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def data(drawn):
    return project.open_data(settings_of(), root=drawn)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, data, drawn):
    settings = settings_of()
    run = Run.start(CocoAlignment.project, "smoke", 0, tmp_path_factory.mktemp("runs"), settings)
    return CocoAlignment(run, settings, data, drawn)


# --- sentences --------------------------------------------------------------------------------------------------


def test_a_sentence_says_only_what_is_true_and_never_more_than_it_states(data):
    captioned = CaptionedRegions(data.train)
    keys = [
        (i, f"{view}/{w}/{n}")
        for i, view in zip(data.train.indices, VIEWS * 99, strict=False)
        for w in (0, 4)
        for n in range(len(NAMED))
    ]
    samples = [captioned[key] for key in keys[:400]]
    truth = is_true(torch.stack([s["facts"] for s in samples]), torch.stack([s["said"] for s in samples]))
    assert truth.diagonal().all()
    for sample in samples:
        stated = {name for name, code in zip(FACTS, sample["said"].tolist(), strict=True) if code >= 0}
        assert ("side" in stated) == bool(re.search(r"on the (left|right)", sample["text"]))
        region = captioned.crops.data.regions[sample["region"]]
        assert ("colour" in stated) == (str(region.attributes.get("colour")) in sample["text"].split())
        assert ("size" in stated) == (region.size in sample["text"].split())


def test_truth_is_told_by_the_stated_facts_alone():
    facts = torch.tensor([[0, 0, 1, -1, 0], [0, 0, 2, 0, 1]])  # a car in colour 1; one in colour 2 on side 0
    said = torch.tensor([[0, -1, -1, -1, -1], [0, -1, 2, -1, -1], [-1, 0, -1, 0, -1]])
    assert is_true(facts, said).tolist() == [[True, False, False], [True, True, True]]


def test_a_side_is_named_only_where_the_view_shows_one(data):
    region = data.train.data.regions[data.train.indices[0]]
    assert "on the" not in sentence(region, "plain", 4, ("side",))[0]
    assert sentence(region, "left_flip", 4, ("side",))[0].endswith("on the right")
    assert len(CaptionedRegions.views(VIEWS)) == len(VIEWS) * len(WORDINGS) * len(NAMED)
    assert "side" not in facts_of(region, None)


def test_batches_for_the_teacher_list_each_of_their_first_sentences_once(data):
    captioned, index, read = CaptionedRegions(data.train), data.train.indices[0], []

    def tokenizer(texts):
        read.extend(texts)
        return torch.zeros(len(texts), 4, dtype=torch.int64)

    samples = [captioned[index, view] for view in ("plain/0/0", "plain_flip/0/0", "plain/2/0", "plain/4/0")]
    batch = collate_captioned(tokenizer, 3)(samples)
    assert read == list(dict.fromkeys(sample["text"] for sample in samples[:3]))
    assert batch["images"].shape[0] == 4 and batch["tokens"].shape[0] == 2 and batch["positive"].all()


# --- arms -------------------------------------------------------------------------------------------------------


def test_no_test_picture_is_trained_or_selected_on(data):
    ids = [{r.id for r in regions_of(part)} for part in (data.train, data.validation, data.test)]
    pictures = [{r.file for r in regions_of(part)} for part in (data.train, data.validation, data.test)]
    for sets in (ids, pictures):
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


def test_category_labels_never_name_a_colour(experiment):
    train = experiment.data.train
    texts = {project.text_of(train.data.regions[i], "category") for i in train.indices}
    colours = {r.attributes.get("colour") for r in regions_of(train)} - {None, "orange"}  # a fruit of COCO
    assert not {word for text in texts for word in text.split()} & colours


def test_weights_zero_train_the_baseline_bit_for_bit(tmp_path, data, drawn):
    settings = settings_of(similarity_weight=0.0, cosine_weight=0.0)
    experiment = CocoAlignment(Run.start(CocoAlignment.project, "smoke", 0, tmp_path, settings), settings, data, drawn)
    baseline, distilled = experiment.train("baseline"), experiment.train("distilled")
    for key, value in baseline.model.state_dict().items():
        assert torch.equal(value, distilled.model.state_dict()[key])


def test_a_run_from_the_table_equals_a_live_one(tmp_path, data, drawn, experiment):
    """The same teacher, the same views: weights after training agree to 1e-5."""
    settings = settings_of(cache_teacher=False)
    live = CocoAlignment(Run.start(CocoAlignment.project, "smoke", 0, tmp_path, settings), settings, data, drawn)
    live.results["teacher"] = experiment.train("teacher")
    kept, other = experiment.train("distilled"), live.train("distilled")
    assert [step["loss"] for step in kept.training.history] == pytest.approx(
        [step["loss"] for step in other.training.history], abs=1e-4
    )
    for key, value in kept.model.state_dict().items():
        assert torch.allclose(value.float(), other.model.state_dict()[key].float(), atol=1e-5)


def test_with_few_labels_half_of_a_distilled_batch_has_none(experiment):
    data, plan, collate = experiment.batches(CocoAlignment.arms["few_labels_distilled"])
    batch = collate([data[key] for key in plan.batch(3)])
    assert batch["positive"].any(1).sum() == experiment.settings.batch // 2
    data, plan, collate = experiment.batches(CocoAlignment.arms["few_labels_baseline"])
    assert {index for index, _ in plan.batch(5)} <= set(experiment.labelled(1))
    data, plan, collate = experiment.batches(CocoAlignment.arms["no_labels"])
    assert not collate([data[key] for key in plan.batch(0)])["positive"].any()


def test_a_finished_arm_is_read_back_not_trained_again(experiment, data, drawn):
    first = experiment.train("baseline")
    other = CocoAlignment(experiment.run, experiment.settings, data, drawn)
    assert other.train("baseline").numbers == json.loads(json.dumps(first.numbers).replace("NaN", "null"))
    assert torch.equal(experiment.embeddings("baseline"), other.embeddings("baseline"))


def test_bench_names_every_ratio(drawn):
    table = bench_table(CocoAlignment, "smoke", drawn)
    assert all(name in table for name in ("plain step", "teacher forward", "KD step, live", "KD step, kept outputs"))


def colourless(data):
    """The same data as COCO's annotators left it: without attributes."""

    def bare(crops):
        other = copy.copy(crops)
        other.data = copy.copy(crops.data)
        other.data.regions = [replace(region, attributes={}) for region in crops.data.regions]
        return other

    return replace(data, train=bare(data.train), validation=bare(data.validation), test=bare(data.test))


def test_without_colours_the_caption_arms_are_left_out(tmp_path, data, drawn, capsys):
    settings = settings_of()
    run = Run.start(CocoAlignment.project, "smoke", 0, tmp_path, settings)
    experiment = CocoAlignment(run, settings, colourless(data), drawn / "bare")
    experiment.train_together("teacher", "full_captions", "baseline", "full_captions_distilled")
    assert set(experiment.results) == {"teacher", "baseline"}
    assert capsys.readouterr().out.count("left out: full_captions, full_captions_distilled: the data names no col") == 1
    with pytest.raises(InputError, match="arm full_captions: the data names no colours"):
        experiment.train("full_captions")
    assert "full_captions" not in experiment.save()


def test_a_teacher_as_it_is_is_not_refused_for_texts_it_never_saw(tmp_path, data, drawn, capsys):
    def checked(**changes):
        settings = settings_of(allow_weaker_teacher=False, **changes)
        experiment = CocoAlignment(
            Run.start(CocoAlignment.project, "smoke", 0, tmp_path, settings), settings, data, drawn
        )
        experiment.results.update(
            {name: ArmResult(None, {}, {}, score) for name, score in (("teacher", 40.0), ("baseline", 60.0))}
        )
        experiment.check_teacher()

    checked(teacher_steps=0)
    assert "40.00, the student that learned from these texts 60.00" in capsys.readouterr().out
    with pytest.raises(InputError, match="40.00 is not above the student's own 60.00"):
        checked(teacher_steps=3)


def test_workers_cut_the_same_crops(experiment, data):
    model = experiment.train("baseline").model
    plain = RegionViews(data.test.data, data.test.crop)  # nothing precomputed, as in full
    assert torch.equal(encode_crops(model, plain, size=5), encode_crops(model, data.test, size=5))
    assert torch.equal(encode_crops(model, plain, size=5, workers=1), encode_crops(model, data.test, size=5))


def test_of_many_photographs_some_whole_images_are_taken(data, drawn):
    """Before any crop is cut; a rendered street is taken as it is."""
    root, regions = data.train.data.root, data.train.data.regions
    some = some_images(regions, 30)
    assert 0 < len(some) <= 30 and some == some_images(regions, 30)
    counts = [sum(r.image_id == one.image_id for r in regions) for one in some]
    assert counts == [sum(r.image_id == one.image_id for r in some) for one in some]
    assert some_images(regions, 10**6) == regions and len(some_images(regions, 0)) > 0
    capped = read_regions(root, 32, most_regions=40)
    assert len(capped.train) + len(capped.validation) <= 40 and len(capped.test) <= 10
    assert len(capped.train._crops["plain"]) == len(capped.train)
    assert len(project.open_data(settings_of(most_regions=0), root).test) == len(data.test)
    assert len(project.open_data(settings_of(most_regions=40), root=drawn).test) == len(data.test)


# --- command line -----------------------------------------------------------------------------------------------


def test_two_processes_share_the_arms_of_a_run(tmp_path, drawn, capsys):
    options = ("--profile", "smoke", "--root", drawn, "--out", tmp_path, "--set", "processes=2")
    folder = carry_out(main, capsys, *options)
    end_workers()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["arms"]) == set(CocoAlignment.arms)
    logs = {file.stem: file.read_text() for file in (folder / "logs").glob("*.log")}
    assert "teacher" not in logs  # nothing to train beside it
    assert all(f"{name} " in logs[name] for name in ("no_labels", "full_captions"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "few_labels=100000"], "few_labels is 100000, expected fewer than the"),
        (["--data", str(NO_COCO)], f"{NO_COCO}: "),
        (["--set", "student={backbone: resnet18}"], "'resnet18' is not a timm ConvNeXt"),
        (["--set", "teacher={name: ViT-Z}"], "open_clip has no model 'ViT-Z'"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, drawn, options, message):
    with pytest.raises(SystemExit) as left:
        main(["--profile", "smoke", "--root", str(drawn), "--out", str(tmp_path), "--stage", "baseline", *options])
    assert message in left.value.code and "\n" not in left.value.code
