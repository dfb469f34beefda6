import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import carry_out, interrupted_after, stages
from PIL import Image
from safetensors.torch import load_file, save_file

from kdnb.datasets.camvid import CLASSES, VOID, CamVid
from kdnb.datasets.color_jitter import ColorJitterViews, with_color_jitters
from kdnb.datasets.segmentation import SegmentationViews, class_weights, collate
from kdnb.datasets.street_frames import photo_frame
from kdnb.errors import InputError
from kdnb.metrics.camvid_read import evaluate_folders
from kdnb.models.clip import build_tokenizer, encode_texts, lite_teacher
from kdnb.models.prompts import read_prompts
from kdnb.options import load_settings
from kdnb.projects import camvid_prompt_kd as project
from kdnb.projects.camvid_prompt_kd.__main__ import main
from kdnb.run import Run

FINISHED = (
    "baseline",
    "few_labels_baseline",
    "distilled",
    "few_labels_distilled",
    "few_labels_from_image_only",
    "few_labels_unweighted_distilled",
    "few_labels_channel",
    "few_labels_features",
    "baseline_matched",
    "all_labels",
)


def settings_of(profile="smoke", **changes):
    return load_settings(project.CamVidPromptKdSettings, profile, **changes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def data(drawn):
    return project.open_data(settings_of(), root=drawn)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, data, drawn):
    """Arms that it trains are there for the tests that come after."""
    return project.CamVidPromptKd.start("smoke", results=tmp_path_factory.mktemp("runs"), root=drawn)


def another(tmp_path, data, drawn, start=None, **changes):
    """A run of its own with other settings; with ``start``, it has the arms of that one that its own hang on."""
    settings = settings_of(**changes)
    kind = project.CamVidPromptKd
    other = kind(Run.start(kind.project, "smoke", 0, tmp_path, settings), settings, data, drawn)
    for name in ("body", *project.PROMPT_TEACHERS, "teacher", "baseline") if start else ():
        other.store.write(name, start.train(name))
    return other


def same_weights(one, other):
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


# --- settings ---------------------------------------------------------------------------------------------------


def test_all_profiles_are_valid_settings():
    for profile in ("smoke", "lite", "full"):
        settings = settings_of(profile)
    assert settings.student.backbone != "unet" and settings.student.pretrained and settings.size == (480, 360)


def test_an_unknown_setting_names_its_neighbour():
    with pytest.raises(InputError, match="did you mean 'student_steps'"):
        settings_of(student_stepz=3)


# --- data -------------------------------------------------------------------------------------------------------


def test_splits_are_disjoint_and_the_official_ones(data):
    names = [set(split.names) for split in (data.train, data.validation, data.test)]
    assert [len(one) for one in names] == [24, 4, 6]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
    assert all(name.startswith("test") for name in names[2])


def test_shares_are_of_labelled_pixels(data):
    shares = project.pixel_shares(data)
    label = torch.stack([data.test[i]["label"] for i in range(len(data.test))])
    assert shares.sum().tolist() == pytest.approx([100] * 3)
    sky = 100 * (label == 0).sum() / (label != VOID).sum()
    assert shares.loc["sky", "test"] == pytest.approx(sky.item())


def test_class_weights_are_enets():
    """Two frames, a quarter of the labelled pixels sky and the rest road; void counts nowhere."""
    counts = torch.zeros(2, 12, dtype=torch.int64)
    counts[0, 0], counts[1, 3], counts[1, VOID] = 100, 300, 5000
    weights = class_weights(counts)
    assert weights[0].item() == pytest.approx(1 / math.log(1.27))
    assert weights[3].item() == pytest.approx(1 / math.log(1.77))
    assert weights[1].item() == pytest.approx(1 / math.log(1.02))


def test_lights_change_the_picture_alone_and_come_again(data):
    plain = SegmentationViews(data.train, (60, 80))
    views = ColorJitterViews(plain)
    assert with_color_jitters(["plain", "flip"], 1) == ("plain", "plain@1", "flip", "flip@1")
    own, lit, again, other = (views[3, name] for name in ("flip", "flip@1", "flip@1", "flip@2"))
    assert torch.equal(own["image"], plain[3, "flip"]["image"])
    assert torch.equal(lit["image"], again["image"]) and lit["view"] == "flip@1"
    assert not torch.equal(lit["image"], own["image"]) and not torch.equal(lit["image"], other["image"])
    assert torch.equal(lit["label"], own["label"])
    with pytest.raises(InputError, match="unknown view 'upside'"):
        views[0, "upside@1"]


# --- arms -------------------------------------------------------------------------------------------------------


def batches(experiment, name, steps=6):
    views, plan, collate = experiment.batches(experiment.arm(name))
    return [collate([views[key] for key in plan.batch(step)]) for step in range(steps)]


def test_arms_differ_in_nothing_but_what_they_say(experiment):
    """Arms with the same labels see the same frames in the same views and start from the same weights."""
    for batch, other in zip(batches(experiment, "baseline"), batches(experiment, "distilled_kl"), strict=True):
        assert all(torch.equal(batch[key], other[key]) for key in ("images", "labels", "labelled"))
        assert batch["labelled"].all() and batch["views"] == other["views"]
    names = ("baseline", "distilled_kl", "distilled_mse", "few_labels_baseline", "few_labels_distilled")
    arms = [experiment.arm(name) for name in names]
    students = [experiment.build(arm, experiment.seed_of(arm), experiment.settings).state_dict() for arm in arms]
    assert all(torch.equal(value, one[key]) for one in students[1:] for key, value in students[0].items())
    steps = {name: experiment.train(name).numbers["steps"] for name in names}
    assert set(steps.values()) == {experiment.settings.student_steps}


def test_few_labels_arms_see_so_many_labels(experiment):
    few = set(experiment.labelled(1))
    assert len(few) == experiment.settings.few_labels and few < set(experiment.labelled(2))
    for name in ("few_labels_baseline", "few_labels_distilled", "few_labels_from_image_only"):
        for batch in batches(experiment, name, 20):
            known = (batch["labels"] != VOID).flatten(1).any(1)
            assert {int(i) for i in batch["indices"][known]} <= few
            assert torch.equal(known, batch["labelled"])
            assert known.sum() == (4 if name == "few_labels_baseline" else 2)
    assert all(batch["labelled"].all() for batch in batches(experiment, "few_labels_baseline"))


class Poisoned(torch.utils.data.Dataset):
    """The frames with the labels of all but a few replaced by noise."""

    def __init__(self, camvid, kept):
        self.camvid, self.kept, self.frames, self.root = camvid, set(kept), camvid.frames, camvid.root

    def __len__(self):
        return len(self.camvid)

    def __getitem__(self, i):
        item = self.camvid[i]
        if i in self.kept:
            return item
        noise = torch.randint(0, VOID, item["label"].shape, generator=torch.Generator().manual_seed(i))
        return {**item, "label": noise}


@pytest.mark.parametrize("name", ["few_labels_baseline", "few_labels_distilled", "few_labels_unweighted_distilled"])
def test_labels_of_other_frames_change_nothing(tmp_path, data, drawn, experiment, name):
    poisoned = dataclasses.replace(data, train=Poisoned(data.train, experiment.labelled(1)))
    other = another(tmp_path, poisoned, drawn, experiment)
    assert same_weights(experiment.train(name), other.train(name))


def test_poison_is_noticed_where_labels_count(tmp_path, data, drawn, experiment):
    """The control of the test above: the baseline does read those labels."""
    poisoned = dataclasses.replace(data, train=Poisoned(data.train, experiment.labelled(1)))
    assert not same_weights(experiment.train("baseline"), another(tmp_path, poisoned, drawn).train("baseline"))


def test_weights_zero_train_the_baseline_bit_for_bit(tmp_path, data, drawn, experiment):
    other = another(tmp_path, data, drawn, experiment, kd_weight=0.0)
    assert same_weights(experiment.train("baseline"), other.train("distilled_kl"))


class Constant(torch.nn.Module):
    """A network that gives the same logits (11,) for every pixel."""

    channels = 1

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits[:, None, None].clone())

    def forward(self, images):
        logits = self.logits.expand(len(images), len(CLASSES), *images.shape[2:])
        return {"logits": logits, "features": logits[:, :1]}


def test_a_teacher_with_other_class_weights_is_understood():
    """Teacher and student who both know the truth q, but learned with weights of their own, do not disagree."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(len(CLASSES), generator=generator).log_softmax(0)
    own, others = (torch.rand(len(CLASSES), generator=generator) + 0.1 for _ in range(2))
    batch = {
        "images": torch.zeros(2, 3, 32, 40, dtype=torch.uint8),
        "indices": [0, 1],
        "labels": torch.zeros(2, 32, 40, dtype=torch.int64),
        "labelled": torch.ones(2, dtype=torch.bool),
    }
    for weights, teacher_weights in ((own, others), (own, None), (None, others)):
        student, teacher = (Constant(truth if w is None else truth + w.log()) for w in (weights, teacher_weights))
        for name in ("kd_kl", "kd_mse"):
            parts = project.build_distiller(student, teacher, (name,), settings_of(), weights, teacher_weights)(batch)
            assert parts[name].item() == pytest.approx(0, abs=1e-5)
        parts = project.build_distiller(student, teacher, ("kd_kl",), settings_of(), weights, None)(batch)
        assert (parts["kd_kl"].item() > 1e-3) == (teacher_weights is not None)


def test_distilling_adds_its_part_and_moves_the_student(experiment):
    experiment.train_together("distilled_kl", "distilled_mse")
    for kind in ("kl", "mse"):
        arm = experiment.train(f"distilled_{kind}")
        assert all(step[f"kd_{kind}"] > 0 for step in arm.training.history)
        assert not same_weights(arm, experiment.train("baseline"))


def test_a_teacher_is_its_body_under_a_head_of_its_own(tmp_path, data, drawn, experiment):
    """With a learning rate of 0 the heads stay fresh and the body's weights are those of "body"."""
    other = another(tmp_path, data, drawn, teacher_lr=0.0, weight_decay=0.0)
    other.store.write("body", experiment.train("body"))
    body = dict(experiment.train("body").model.named_parameters())
    for name in project.TEACHERS:
        result = other.train(name)
        inherited = dict(result.model.body.named_parameters())
        assert set(body) - set(inherited) == {"head.weight", "head.bias"}
        assert all(torch.equal(value, body[key]) for key, value in inherited.items())
        numbers = experiment.train("body").numbers
        assert result.numbers["steps"] == numbers["steps"] + other.settings.teacher_steps
        assert result.numbers["train_s"] > numbers["train_s"]
    kinds = {name: other.train(name).model for name in project.PROMPT_TEACHERS}
    prompts = [model.prompts for model in kinds.values()]
    assert not any(torch.equal(prompts[0], one) for one in prompts[1:])


def test_chosen_arms_are_the_best_on_validation(tmp_path, data, drawn, experiment):
    other = another(tmp_path, data, drawn, experiment)
    for name, score in zip(project.PROMPT_TEACHERS, (1.0, 7.0, 7.0, 3.0), strict=True):
        other.train(name).validation = score
    (other.run.folder / "arms" / "teacher.json").unlink()
    other.results.pop("teacher", None)
    assert other.train("teacher").numbers["of"] == "teacher_sentence"  # the first of equals
    assert same_weights(other.train("teacher"), other.train("teacher_sentence"))
    students = other.train_together("few_labels_distilled", "few_labels_from_sentence", "few_labels_from_label")
    assert students[1].numbers["of"] == "few_labels_distilled" and same_weights(*students[:2])
    assert "of" not in students[2].numbers and not same_weights(*students[1:])
    assert other.train("all_labels").numbers["of"] == "baseline"


def test_a_teacher_reads_words_with_the_text_tower_of_a_file(tmp_path, experiment):
    """Such as 01's teacher leaves: the file's own text embeddings are the class vectors."""
    clip = lite_teacher(embed_dim=24, text_width=32, text_layers=2, image_size=16)
    weights = {name: tensor.contiguous() for name, tensor in clip.state_dict().items()}
    save_file(weights, tmp_path / "teacher.safetensors")
    encode = project.text_encoder(str(tmp_path / "teacher.safetensors"), "", None)
    assert torch.equal(encode(["a red car"]), encode_texts(clip, build_tokenizer(), ["a red car"]))


def test_a_ready_made_teacher_needs_no_body(tmp_path, data, drawn):
    other = another(tmp_path, data, drawn, teacher="clip")
    assert "body" not in other.arms and other.needs("teacher_label") == []


def test_the_chosen_teachers_student_waits_for_its_twin(experiment):
    kind = experiment.arms[experiment.train("teacher").numbers["of"]].prompts
    assert "few_labels_distilled" in experiment.needs(f"few_labels_from_{kind}")
    assert "few_labels_distilled" not in experiment.needs("few_labels_from_image_only")


def test_a_weak_teacher_is_refused(tmp_path, data, drawn, experiment):
    other = another(tmp_path, data, drawn, experiment, allow_weaker_teacher=False)
    other.train("teacher").validation, other.train("baseline").validation = 10.0, 20.0
    with pytest.raises(InputError, match="teacher's validation mIoU 10.00 is not above the student's own 20.00"):
        other.check_teacher()


def test_the_matched_student_gets_the_steps_that_distilling_costs(experiment):
    factor = experiment.cost_factor("distilled")
    saved = json.loads((experiment.run.folder / "step_cost_distilled.json").read_text())
    assert factor == pytest.approx(saved["distilling"] / saved["plain"])
    steps = experiment.train("baseline_matched").training.steps
    assert steps == round(experiment.settings.student_steps * max(1.0, factor))


def test_a_finished_arm_is_read_back_not_trained_again(experiment, data, drawn):
    other = project.CamVidPromptKd(experiment.run, experiment.settings, data, drawn)
    for name in ("teacher", "image_only", "body", "few_labels_distilled"):
        first, again = experiment.train(name), other.train(name)
        assert again.numbers == json.loads(json.dumps(first.numbers).replace("NaN", "null"))
        assert same_weights(first, again) and again.predictions == first.predictions


def test_cached_logits_train_as_the_live_teacher(tmp_path, data, drawn, experiment):
    other = another(tmp_path, data, drawn, experiment, cache_teacher=True)
    live, cached = (one.train("few_labels_distilled").training.history for one in (experiment, other))
    for step, again in zip(live, cached, strict=True):
        assert step["kd_kl"] == pytest.approx(again["kd_kl"], rel=5e-3)  # the cache keeps float16
    filled = len(data.train) * len(with_color_jitters(other.settings.views, other.settings.num_color_jitters))
    outputs = other.teacher_outputs("teacher")
    assert len(outputs.values["logits"]) == filled and outputs.seconds > 0


# --- scores -----------------------------------------------------------------------------------------------------


def test_predictions_score_as_the_evaluator_does(experiment, data):
    folder = experiment.save_predictions("baseline")
    scores, numbers = evaluate_folders(data.test.root / "testannot", folder), experiment.train("baseline").numbers
    for key in ("mIoU", "pixel_accuracy"):
        assert numbers[key] == pytest.approx(scores[key])
    assert numbers["iou"] == pytest.approx(scores["iou"], nan_ok=True)
    assert 0 <= numbers["boundary_iou"] <= 100 and 0 <= numbers["ece"] <= 100


def test_any_image_is_segmented_in_its_own_pixels(experiment):
    model = experiment.train("teacher").model
    answer = experiment.predict_image(model, torch.randint(0, 256, (3, 47, 91), dtype=torch.uint8))
    assert answer.shape == (len(CLASSES), 47, 91) and torch.allclose(answer.sum(0), torch.ones(47, 91), atol=1e-5)


def test_the_road_lies_in_its_window_of_a_frame(experiment, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (416, 828, 3)).astype(np.uint8)
    frame, (width, height) = photo_frame("toy", pixels, 81), experiment.settings.size

    def left_half_is_road(model, image):
        assert image.shape == (3, height, width)  # as in training
        probabilities = torch.zeros(len(CLASSES), height, width)
        probabilities[0] = 0.5
        probabilities[CLASSES.index("road"), :, : width // 2] = 0.6
        return probabilities

    monkeypatch.setattr(experiment, "predict_image", left_half_is_road)
    output = experiment.frame_predictor("distilled")(frame)
    left, top, right, bottom = output["window"]
    mask, middle = output["mask"], (left + right) // 2
    assert mask[top:bottom, left : middle - 6].all()
    assert not mask[:, middle + 6 :].any() and not mask[:, :left].any()


# --- faults -----------------------------------------------------------------------------------------------------


def copied(data, tmp_path):
    return Path(shutil.copytree(data.train.root, tmp_path / "copy"))


def test_a_frame_that_is_all_void_is_named(tmp_path, data, drawn):
    root = copied(data, tmp_path)
    label = sorted((root / "trainannot").iterdir())[5]
    Image.fromarray(np.full((60, 80), VOID, np.uint8)).save(label)
    opened = project.open_data(settings_of(), root)
    with pytest.raises(InputError, match=rf"{label.name}: every pixel is void, expected"):
        another(tmp_path, opened, drawn, student_steps=6).train("baseline")


def test_a_label_of_another_size_is_one_line(tmp_path, data):
    root = copied(data, tmp_path)
    label = sorted((root / "trainannot").iterdir())[0]
    Image.fromarray(np.zeros((60, 79), np.uint8)).save(label)
    with pytest.raises(SystemExit) as left:
        main(
            [
                "--profile",
                "smoke",
                "--data",
                str(root),
                "--out",
                str(tmp_path),
                "--stage",
                "baseline",
                "--set",
                "student_steps=6",
            ]
        )
    assert re.fullmatch(rf"kdnb: .*{label.name}: 79 x 60 pixels, expected 80 x 60 as the image .*", left.value.code)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "few_labels=24"], "few_labels is 24, expected fewer than the 24 training items"),
        (["--set", "prompts=nowhere.yaml"], r"nowhere.yaml: cannot be read .*, expected a YAML file of prompts"),
        (
            ["--set", "text=no.safetensors", "--stage", "teacher_label"],
            "no.saf.*: .*; expected the weights of a small CLIP",
        ),
        (
            ["--set", "text=nowhere", "--stage", "teacher_label"],
            "text encoder 'nowhere': no such folder",
        ),
        (["--set", "views=[plain, upside]"], "unknown view 'upside', expected one of plain, flip"),
        (["--data", "nowhere"], "parameter DATA is 'nowhere', which does not exist"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, drawn, data, options, message):
    with pytest.raises(SystemExit) as left:
        main(["--profile", "smoke", "--root", str(drawn), "--out", str(tmp_path), *options])
    assert re.match(f"kdnb: .*{message}", left.value.code) and "\n" not in left.value.code


# --- headless ---------------------------------------------------------------------------------------------------


def test_headless_smoke(tmp_path, drawn, data, capsys):
    """Stage by stage; the arms that one needs are trained on the way."""
    options = ("--profile", "smoke", "--root", drawn, "--out", tmp_path)
    folder = carry_out(main, capsys, *options, *stages(*FINISHED, "test"))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["arms"]) == {*FINISHED, "body", *project.TEACHERS, "teacher", "distilled_kl", "distilled_mse"}
    assert set(metrics["comparisons"]) >= {
        "distilled_vs_baseline",
        "few_labels_distilled_vs_few_labels_baseline",
        "few_labels_distilled_vs_all_labels",
        "teacher_sentence_vs_image_only",
        "distilled_vs_baseline_matched",
    }
    teacher, student = metrics["arms"]["teacher"], metrics["arms"]["baseline"]
    assert teacher["params"] > student["params"] and teacher["flops"] > student["flops"] > 0
    assert teacher["of"] in project.PROMPT_TEACHERS and student["latency_ms"] > 0


def test_an_interrupted_run_ends_at_the_same_weights(tmp_path, drawn, data, capsys):
    """SIGKILL: test_engine.py and test_car_kfold.py."""
    whole = another(tmp_path / "whole", data, drawn, student_steps=6).train("few_labels_baseline")
    same = ("--root", drawn, *stages("few_labels_baseline"))
    change = ("--set", "student_steps=6", "--set", "checkpoint_every=1")
    with interrupted_after(3):
        carry_out(main, capsys, "--profile", "smoke", *change, *same, "--out", tmp_path / "stopped")
    (folder,) = (tmp_path / "stopped").iterdir()
    assert list(folder.glob("checkpoints/*.pt")) and not (folder / "arms" / "few_labels_baseline.json").exists()
    carry_out(main, capsys, "--run", folder, *same)
    again = load_file(folder / "weights" / "few_labels_baseline.safetensors")
    assert all(torch.equal(value, again[key]) for key, value in whole.model.state_dict().items())


def test_real_frames_train_every_kind_of_arm(tmp_path, real_data, capsys):
    """A few of the real frames, in SegNet's layout; scores are in the label's own pixels."""
    root = tmp_path / "camvid"
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        lines = (real_data / "camvid" / f"{split}.txt").read_text().splitlines()[:count]
        root.mkdir(exist_ok=True)
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
        for folder in (split, f"{split}annot"):
            (root / folder).symlink_to(real_data / "camvid" / folder)
    options = ("--profile", "smoke", "--data", root, "--out", tmp_path / "r")
    arms = ("few_labels_distilled", "few_labels_unweighted_baseline", "test")
    folder = carry_out(main, capsys, *options, *stages(*arms))
    kept = {file.stem: json.loads(file.read_text()) for file in (folder / "arms").iterdir()}
    assert set(kept) == {
        "body",
        *project.PROMPT_TEACHERS,
        "teacher",
        "baseline",
        "few_labels_distilled",
        "few_labels_unweighted_baseline",
    }
    labels = [CamVid(root, "test")[i]["label"] for i in range(2)]
    assert np.sum(kept["baseline"]["predictions"]["confusions"]) == sum(
        (label != VOID).sum().item() for label in labels
    )


# --- full -------------------------------------------------------------------------------------------------------


def one_real_batch(real_data, size=(360, 480)):
    views = SegmentationViews(CamVid(real_data / "camvid", "train"), size, labelled=[0])
    return collate([views[0, "plain"], views[1, "flip"]])


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": "clip", "clip_model": "ViT-B-32"},
        {"teacher": "diffusion", "diffusion_model": "tiny", "diffusion_side": 64},
    ],
)
def test_full_step_on_real_frames(real_data, changes):
    """A teacher's step, then a student's: the networks of full with random weights, a frame with labels and one
    without."""
    if changes["teacher"] == "diffusion":
        pytest.importorskip("diffusers", reason="needs the extra full: pip install 'kdnb[full]'")
    settings = settings_of("full", **changes).offline()
    batch = one_real_batch(real_data)
    teacher = project.build_teacher("bag_of_words", settings, read_prompts(), 0)
    one_step(project.build_distiller(teacher.train(), None, (), settings), batch)
    student = project.build(settings.student, 0).train()
    parts = one_step(project.build_distiller(student, teacher, ("kd_kl", "kd_features"), settings), batch)
    assert parts["kd_kl"] > 0 and parts["kd_features"] > 0


def one_step(distiller, batch):
    """Train it for a step, which must change it; returns the parts of the loss."""
    trained = [p for p in distiller.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    parts = distiller(batch)
    parts["loss"].backward()
    torch.optim.SGD(trained, 1e-2).step()
    assert all(torch.isfinite(value) for value in parts.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    return parts
