"""What ``kdnb publish --students`` writes, and the students that the course ships."""

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file

import kdnb.students.shipping as shipping
import kdnb.students.student as student_module
from kdnb.errors import InputError
from kdnb.evidence import mean_metric
from kdnb.students import load_student, on_photographs, photo_stack, student_kinds
from kdnb.students.shipping import ARMS, MAX_BYTES, SHIPPED, photographs, ship, teachers_answers
from tests.students.test_students import camvid, cars

NUMBERS = sorted({path.name[:2] for path in SHIPPED.glob("*.safetensors")})


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A course of our own, in which nothing ships yet."""
    for module in (shipping, student_module):
        monkeypatch.setattr(module, "SHIPPED", tmp_path / "students")
    monkeypatch.setattr(shipping, "PHOTOGRAPHS", tmp_path / "photographs")
    (tmp_path / "students").mkdir()
    (tmp_path / "photographs").mkdir()
    for name in ("street", "pavement", "car"):
        Image.effect_noise((48, 32), 90).convert("RGB").save(tmp_path / "photographs" / f"{name}.jpg")
    (tmp_path / "students" / "05.md").write_text(f"# Card\n\n{shipping.START}\nold\n{shipping.END}\n\nlimits\n")
    return tmp_path


@pytest.fixture
def run(tmp_path):
    """A finished run of 05, as far as shipping looks at it."""
    experiment = camvid()
    folder = tmp_path / "run"
    (folder / "arms").mkdir(parents=True)
    for arm in ARMS:
        (folder / "arms" / f"{arm}.json").write_text("{}")
    experiment.run.folder, experiment.primary, experiment.higher_is_better = folder, "mIoU", True
    experiment.train("x").numbers.update(mIoU=41.25, params=400_000, train_s=321.4)
    experiment.bootstrap_metric = lambda arm: (mean_metric([40.0, 42.5] * 20), 40)
    probabilities = torch.rand(11, 32, 48, generator=torch.Generator().manual_seed(0))
    experiment.predict_image = lambda model, image: probabilities
    experiment.probabilities = probabilities
    return experiment


def test_a_run_ships_students_card_and_the_teachers_answers(house, run):
    paths = ship(run)
    assert [path.name for path in paths] == [f"05_{arm}.safetensors" for arm in ARMS] + [
        "05_teacher.safetensors",
        "05.md",
    ]
    assert load_student("05", "few_labels_distilled").about["seed"] == 3
    answers = teachers_answers("05")
    assert set(answers) == {"street", "pavement"} and torch.equal(
        answers["street"], run.probabilities.argmax(0).to(torch.uint8)
    )
    card = (house / "students" / "05.md").read_text()
    assert card.startswith("# Card") and card.endswith("limits\n") and "old" not in card
    assert "| `baseline` | 41.2 | " in card and "| 400,000 | 321 |" in card


def test_what_is_not_finished_ships_nothing(house, run):
    (run.run.folder / "arms" / "distilled.json").unlink()
    with pytest.raises(InputError, match="lacks the arm 'distilled'"):
        ship(run)
    run.run.profile = "lite"
    with pytest.raises(InputError, match="profile lite ships no student"):
        ship(run)
    assert not list(house.rglob("*.safetensors"))


def test_students_that_are_too_large_are_not_written(house, run, monkeypatch):
    monkeypatch.setattr(shipping, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match=r"would take [\d,]+ bytes, expected at most 1,000"):
        ship(run)
    assert not list(house.rglob("*.safetensors"))


def test_the_answer_of_an_ensemble_is_its_mean(house):
    run = cars()
    outputs = iter([torch.tensor([0.0, 0.0, 50.0]), torch.tensor([0.0, 50.0, 0.0])])
    run.known = {"ensemble": type("Arm", (), {"members": ("fold_1", "fold_2")})}
    run.predict_image = lambda model, image: next(outputs)
    mean = student_kinds()[run.project].teachers_answer(run, torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert torch.allclose(mean, torch.tensor([0.0, 0.5, 0.5]), atol=1e-6)


@pytest.mark.parametrize("number", NUMBERS)
def test_shipped_students_are_small_and_have_a_card(number):
    scores = (SHIPPED / f"{number}.md").read_text(encoding="utf-8")
    for arm in ARMS:
        path = SHIPPED / f"{number}_{arm}.safetensors"
        assert path.stat().st_size <= MAX_BYTES and f"| `{arm}` |" in scores
        assert all(t.dtype != torch.float32 for t in load_file(path).values())
        about = load_student(number, arm).about
        assert about["profile"] == "photo" and about["arm"] == arm


@pytest.mark.parametrize("number", NUMBERS)
def test_students_are_shown_on_photographs_beside_their_teacher(number):
    assert set(teachers_answers(number)) == {path.stem for path in photographs(number)}
    figure = on_photographs(number)
    assert isinstance(figure, Figure) and len(figure.axes) == 3 * len(photographs(number))


@pytest.mark.skipif(NUMBERS != ["03", "05", "06"], reason="a stack needs the students of 03, 05 and 06")
def test_a_stack_of_students_looks_at_a_street():
    from kdnb.projects.scoreboard import photo_frame
    from kdnb.students.student import as_pixels

    image = as_pixels(shipping.PHOTOGRAPHS / "street.jpg").permute(1, 2, 0).numpy()
    seen = photo_stack().look(photo_frame("street", image, 60), "stop", (10.0, 150, 110, 230))
    assert seen["road"]["mask"].shape == image.shape[:2] and 0.2 < seen["road"]["mask"].mean() < 0.95
    assert {"boxes", "labels", "scores"} <= set(seen["objects"])
    assert len(seen["model"]) == 24 and seen["model"][0][1] >= seen["model"][-1][1]
