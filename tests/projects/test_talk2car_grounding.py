"""02 Talk2Car grounding: encoders of 01, tokens, predictions."""

import copy
import json
import math
import shutil

import pytest
import torch

from kdnb.datasets.talk2car import Command, hold_out
from kdnb.datasets.talk2car_views import collate, mirrored_boxes, mirrored_text
from kdnb.errors import InputError
from kdnb.metrics.grounding import evaluate_talk2car, iou_per_command, read_predictions
from kdnb.models.clip import TeacherTower, encode_images
from kdnb.options import load_settings
from kdnb.projects import talk2car_grounding as project
from kdnb.projects.coco_alignment.exports import EXPORTED
from kdnb.projects.coco_alignment.store import aligned


def settings_of(**changes):
    return load_settings(project.Talk2CarGroundingSettings, "smoke", **changes)


def start(folder, drawn, data=None, **changes):
    return project.Talk2CarGrounding.start("smoke", 0, data, folder, drawn, **changes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def data(drawn):
    return project.open_data(settings_of(), root=drawn)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, data, drawn):
    return start(tmp_path_factory.mktemp("runs"), drawn)


def test_encoders_of_01_are_trained_once_and_found_again(experiment, drawn, monkeypatch):
    first = experiment.aligned
    (folder,) = drawn.glob("aligned_*")
    assert {path.stem for path in folder.joinpath((folder / "current").read_text()).iterdir()} == set(EXPORTED)
    monkeypatch.setattr("kdnb.projects.coco_alignment.CocoAlignment.__init__", lambda *a: pytest.fail("trained again"))
    again = aligned("smoke", 0, drawn)
    pairs = [(first.teacher, again.teacher), *((first.students[n], again.students[n]) for n in first.students)]
    for one, other in pairs:
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    assert not any(p.requires_grad for p in again.teacher.parameters())


def test_kept_cells_are_those_of_the_crops(experiment):
    """A frozen arm on kept cells predicts as the same arm does on the crops themselves."""
    model = experiment.build(project.ARMS["distilled"], 0, experiment.settings).eval()
    inputs = experiment.inputs
    kept = inputs.tokens("distilled")["test"]
    crops = [inputs.image("test", i)["crops"] for i in range(len(kept))]
    live = torch.stack([model.tokens({"crops": some[None]})[0] for some in crops])
    mask = inputs.tensors["test"]["proposal_mask"]
    assert torch.allclose(kept[mask], live.detach()[mask], atol=1e-5)


def kept_stores(experiment, pattern):
    return set((experiment.run.folder / "cache").glob(f"{pattern}/teacher_*"))


def test_cells_and_words_stay_on_disk_and_crops_only_where_they_fit(tmp_path, experiment, drawn, monkeypatch):
    """With another encoder the kept cells are others; without room for crops the cells are the same."""
    kept = experiment.inputs.tokens("distilled")
    assert len(kept_stores(experiment, "tokens_distilled_test")) == len(kept_stores(experiment, "words_test")) == 1
    monkeypatch.setattr("kdnb.projects.talk2car_grounding.inputs.MEMORY", 0)
    other = start(tmp_path, drawn, workers=1)
    inputs = other.inputs
    assert torch.equal(inputs.tokens("distilled")["train_flip"], kept["train_flip"]) and not inputs._crops
    before = kept_stores(other, "tokens_*")
    inputs._tokens.clear()
    torch.nn.init.zeros_(other.aligned.students["distilled"].project.weight)
    assert not torch.equal(inputs.tokens("distilled")["test"], kept["test"])
    assert len(kept_stores(other, "tokens_*") - before) == 4


def test_whole_images_are_kept_in_half_precision(tmp_path, drawn):
    wide = start(tmp_path, drawn, whole_picture=160)
    arm, inputs = project.ARMS["distilled"], wide.inputs
    model = wide.build(arm, 0, wide.settings).eval()
    kept = inputs.tokens("distilled")["test"]
    batch = collate([{**inputs.image("test", 0), "boxes": inputs.tensors["test"]["boxes"][0]}])
    assert kept.dtype == inputs.tensors["test"]["words"].dtype == torch.float16
    assert torch.allclose(kept[0].float(), model.tokens(batch)[0].detach(), rtol=1e-3, atol=1e-3)
    sample = inputs.dataset("test", arm)[0, "plain"]
    assert sample["tokens"].dtype == sample["words"].dtype == torch.float32
    assert wide.train("teacher").numbers["params_text"] > 0  # the teacher takes crops all the same


def test_a_mirrored_command_means_the_mirrored_box(experiment):
    assert (
        mirrored_text("Turn left after the rightmost car on the right")
        == "turn right after the leftmost car on the left"
    )
    inputs = experiment.inputs
    train, flip = inputs.tensors["train"], inputs.tensors["train_flip"]
    x1, y1, x2, y2 = train["truth"][0].tolist()
    assert flip["truth"][0].tolist() == pytest.approx([1 - x2, y1, 1 - x1, y2])
    assert torch.allclose(mirrored_boxes(flip["boxes"]), train["boxes"], atol=1e-6)
    crops = inputs.image("train", 0)["crops"]
    assert torch.equal(inputs.image("train_flip", 0)["crops"].flip(-1), crops)


def test_the_teachers_tower_normalises_as_the_teacher_does(experiment):
    """Whatever mean and spread it was trained with: its cell is its embedding."""
    teacher = copy.deepcopy(experiment.aligned.teacher)
    teacher.visual.image_mean, teacher.visual.image_std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    crops = experiment.inputs.image("test", 0)["crops"]
    cells = TeacherTower(teacher).feature_map(crops)[:, :, 0, 0]
    assert torch.allclose(torch.nn.functional.normalize(cells, dim=1), encode_images(teacher, crops), atol=1e-6)


def test_all_arms_of_a_head_start_alike(experiment):
    heads = [
        experiment.build(project.ARMS[name], 3, experiment.settings).head.state_dict()
        for name in ("teacher", "baseline", "distilled", "random")
    ]
    assert all(torch.equal(value, head[key]) for head in heads[1:] for key, value in heads[0].items())


def test_a_frozen_encoder_stays_and_a_finetuned_one_learns(experiment):
    before = experiment.aligned.students["distilled"].state_dict()
    for name, same in (("distilled", True), ("distilled_finetuned", False)):
        after = experiment.train(name).model.encoder.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before.items()) is same


def test_a_command_is_predicted_as_in_the_evaluation(experiment):
    """The explorer's way to a prediction and the evaluation's agree on every test command."""
    experiment.train("baseline")
    for i, command in enumerate(experiment.data.test.commands):
        item = project.item_in_pixels(experiment.data.test, i)
        predicted = experiment.predict_command("baseline", item["image"], item["proposals"], item["command"])
        x, y, w, h = experiment.results["baseline"].predictions[command.token]
        width, height = item["image"].shape[2], item["image"].shape[1]
        expected = torch.tensor([x / 1600 * width, y / 900 * height, (x + w) / 1600 * width, (y + h) / 900 * height])
        assert torch.allclose(predicted["box"], expected, atol=0.5)
        assert predicted["scores"].sum().item() == pytest.approx(1, abs=1e-4)
        assert predicted["attention"].sum().item() == pytest.approx(1, abs=1e-4)


def test_the_leaderboard_file_scores_as_the_run_says(experiment):
    experiment.train_together("teacher", "random", "random_projection")
    comparisons = experiment.save()
    metrics = json.loads((experiment.run.folder / "metrics.json").read_text())
    commands = experiment.data.test.commands
    for name in ("teacher", "random"):
        predictions = read_predictions(experiment.run.folder / f"predictions_{name}.json")
        assert evaluate_talk2car(commands, predictions)["AP50"] == pytest.approx(metrics["arms"][name]["AP50"])
        assert metrics["arms"][name]["fps"] == pytest.approx(1000 / metrics["arms"][name]["latency_ms"])
    hits = {
        name: 100 * (iou_per_command(commands, experiment.results[name].predictions) > 0.5).mean()
        for name in ("baseline", "random")
    }
    assert comparisons["baseline_vs_random"].delta == pytest.approx(hits["baseline"] - hits["random"])


def test_your_own_image_gets_a_grid_of_boxes(experiment):
    image = torch.zeros(3, 90, 200, dtype=torch.uint8)
    boxes = project.grid_proposals(image)
    assert boxes.shape == (15, 4) and boxes.min() >= 0 and (boxes[:, 2] <= 200).all() and (boxes[:, 3] <= 90).all()
    predicted = experiment.predict_command("baseline", image, boxes, "stop")
    assert math.isfinite(predicted["box"].sum()) and predicted["scores"].shape == (15,)


def test_an_empty_command_and_too_few_commands_are_told(experiment, tmp_path, drawn):
    image = torch.zeros(3, 90, 160, dtype=torch.uint8)
    with pytest.raises(InputError, match="text 0 is ' ', expected words"):
        experiment.predict_command("baseline", image, project.grid_proposals(image), " ")
    with pytest.raises(InputError, match="few_labels is 1000, expected fewer than the"):
        start(tmp_path, drawn, few_labels=1000)


def test_a_test_set_without_boxes_is_stood_in_for_by_val(data, drawn, tmp_path, capsys):
    """As the official one: no setting needed; scores are those of val, selection is on whole scenes of train."""
    root = tmp_path / "t2c"
    shutil.copytree(data.train.root, root)
    file = root / "commands" / "test_commands.json"
    content = json.loads(file.read_text())
    for row in content["commands"]:
        del row["2d_box"]
    file.write_text(json.dumps(content))
    opened = project.open_data(settings_of(), root)
    assert [c.token for c in opened.test.commands] == [c.token for c in data.validation.commands]
    train, held = ({c.scene for c in part.commands} for part in (opened.train, opened.validation))
    assert train and held and not train & held
    assert len(opened.train) + len(opened.validation) == len(data.train)
    start(tmp_path, drawn, root)
    assert "test_commands.json has no boxes: scores are those of val" in capsys.readouterr().out
    assert project.open_data(settings_of(test_split="val"), root).note.startswith("test_split is 'val'")
    assert data.note == ""


def test_scenes_are_held_out_whole():
    commands = [Command(str(i), "stop", None, f"{i}.jpg", "car", scene) for i, scene in enumerate("aabbbcacc" * 3)]
    kept, held = hold_out(commands)
    assert {c.scene for c in held} == {"c"} and {c.scene for c in kept} == {"a", "b"}
    with pytest.raises(InputError, match="train has 1 scene"):
        hold_out(commands[:2])


def test_a_root_without_proposals_is_told(data, tmp_path):
    root = shutil.copytree(data.train.root, tmp_path / "t2c")
    for file in root.glob("*.json"):
        file.unlink()
    with pytest.raises(InputError, match="no proposals file"):
        project.open_data(settings_of(), root)
