from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import kdnb
from kdnb.cli import main
from kdnb.datasets.car_submissions import read_submission
from kdnb.errors import InputError
from kdnb.experiment import ArmResult
from kdnb.models.classifier import build_classifier
from kdnb.options import load_settings
from kdnb.projects.camvid_prompt_kd.data import CamVidPromptKdSettings
from kdnb.projects.camvid_prompt_kd.terms import build as build_segmenter
from kdnb.projects.car_kfold.data import CarKfoldSettings
from kdnb.projects.voc_defeat.data import VocDefeatSettings
from kdnb.projects.voc_defeat.terms import build as build_detector
from kdnb.students import load_student, save_student, shipped, student_kinds
from kdnb.students.student import as_pixels

PARTS = {"blocks": 4, "layers": 1}
CARS = ["A 1", "B 2", "C 3"]


def fake(project, settings, model, **more):
    """As much of a finished experiment as a student's file needs."""
    result = ArmResult(model, None, {"score": 12.5, "of": "name"}, 0.0)
    run = SimpleNamespace(profile="photo", seed=3)
    return SimpleNamespace(project=project, run=run, settings=settings, train=lambda arm: result, **more)


def voc():
    network = {"backbone": "tf_efficientnet_lite0", "parts": PARTS, "neck": 16, "head": 16, "proposals": 20}
    settings = load_settings(VocDefeatSettings, "photo", size=(96, 96), student={**network, "pretrained": False})
    model = build_detector(settings.student, settings, 0)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=3.0)  # some scores above the threshold
    return fake("03_voc_defeat", settings, model)


def camvid():
    network = {"backbone": "tf_efficientnet_lite0", "width": 8, "parts": PARTS, "pretrained": False}
    settings = load_settings(CamVidPromptKdSettings, "photo", size=(64, 48), student=network)
    return fake("05_camvid_prompt_kd", settings, build_segmenter(settings.student, 0))


def cars():
    network = {"backbone": "tf_efficientnet_lite0", "hidden": 8, "options": PARTS, "pretrained": False}
    settings = load_settings(CarKfoldSettings, "photo", size=(48, 48))
    settings = settings.model_copy(update={"student": settings.student.model_copy(update=network)})
    constants = torch.tensor([1.5, 0.4, 0.5, 0.6]), torch.tensor([0.3, 0.1, 0.1, 0.2])
    model = build_classifier(settings.student, len(CARS), 3, 0)
    return fake("06_car_5fold_kd", settings, model, classes=CARS, data=SimpleNamespace(constants=constants))


MADE = {"03": voc, "05": camvid, "06": cars}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    return {
        number: save_student(make(), "distilled", folder / f"{number}.safetensors") for number, make in MADE.items()
    }


def photograph(width=80, height=60, seed=0):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty photographs of two sizes, one of them broken."""
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(20):
        Image.fromarray(photograph(80 + 20 * (i % 2), 60, i)).save(folder / f"street_{i:02d}.png")
    (folder / "street_07.png").write_bytes((folder / "street_06.png").read_bytes()[:300])
    (folder / "notes.txt").write_text("no image")
    return folder


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", MADE)
def test_a_student_says_what_its_network_said(files, number):
    student, network = load_student(number, weights=files[number]), MADE[number]().train("").model
    assert (
        student.about["arm"] == "distilled"
        and student.about["scores"] == {"score": 12.5}
        and student.about["seed"] == 3
    )
    rounded = {k: v.half().float() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    for name, value in student.network.state_dict().items():
        assert torch.equal(value, rounded[name]), name
    assert files[number].stat().st_size < 2.5e6


def test_a_student_is_found_by_number_name_and_data_set(files):
    for name in ("05", "05_camvid_prompt_kd", "camvid"):
        assert load_student(name, weights=files["05"]).dataset == "camvid"
    assert kdnb.load_student("05", weights=files["05"]).project == "05_camvid_prompt_kd"
    assert [kind.dataset for kind in student_kinds().values()] == ["voc", "camvid", "cars"]


def test_wrong_files_and_names_are_one_line(files, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a student's file"):
        load_student("03", weights=tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="is a student of 05_camvid_prompt_kd, expected one of 03_voc_defeat"):
        load_student("03", weights=files["05"])
    with pytest.raises(InputError, match="no student of '04', expected one of 03_voc_defeat, 05"):
        load_student("04")
    with pytest.raises(InputError, match="no shipped student 'nonsense'"):
        shipped("03_voc_defeat", "nonsense")


def test_a_student_of_a_project_of_your_own(tmp_path, monkeypatch):
    from kdnb import projects

    own = tmp_path / "my_project"
    own.mkdir()
    (own / "__init__.py").write_text("")
    source = "from kdnb.students.camvid_prompt_kd import CamVidStudent\n\n\nclass Mine(CamVidStudent):\n"
    (own / "student.py").write_text(source + '    project, dataset = "99_mine", "mine"\n')
    monkeypatch.setattr(projects, "__path__", [*projects.__path__, str(tmp_path)])
    assert student_kinds()["99_mine"].dataset == "mine"


# --- images -----------------------------------------------------------------------------------------------------


def test_all_kinds_of_images_give_the_same_answer(files, tmp_path):
    array = photograph()
    Image.fromarray(array).save(tmp_path / "a.png")
    student = load_student("05", weights=files["05"])
    images = [array, torch.from_numpy(array).permute(2, 0, 1), Image.fromarray(array), tmp_path / "a.png"]
    first, *others = student.predict(images)
    assert first.shape == (60, 80) and first.dtype == torch.uint8
    assert all(torch.equal(first, other) for other in others)
    with pytest.raises(InputError, match="expected uint8 and three colours"):
        student(array.astype(np.float32))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_says(tmp_path, turn):
    image, exif = Image.fromarray(photograph(24, 16)), Image.Exif()
    exif[0x0112] = turn
    image.save(tmp_path / "turned.png", exif=exif)
    pixels = as_pixels(tmp_path / "turned.png")
    assert torch.equal(pixels, as_pixels(Image.open(tmp_path / "turned.png")))
    assert pixels.shape[1:] == ((24, 16) if turn >= 5 else (16, 24))


# --- kdnb predict -----------------------------------------------------------------------------------------------


def predict(*arguments, threads="1"):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)], env={"KDNB_THREADS": threads})


def contents(path):
    return {f.name: f.read_bytes() for f in sorted(path.iterdir())} if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize(("dataset", "number"), [("voc", "03"), ("camvid", "05"), ("cars", "06")])
def test_files_are_equal_on_one_and_two_threads_and_a_broken_image_is_named(dataset, number, files, folder, tmp_path):
    outs = [
        tmp_path / ("one.csv" if dataset == "cars" else "one"),
        tmp_path / ("two.csv" if dataset == "cars" else "two"),
    ]
    before = torch.get_num_threads()
    for out, threads in zip(outs, ("1", "2"), strict=True):
        done = predict(
            dataset, "--images", folder, "--out", out, "--weights", files[number], "--batch", 3, threads=threads
        )
        assert done.exit_code == 1 and "street_07.png" in done.output and "19 of 20 images" in done.output
    torch.set_num_threads(before)
    assert contents(outs[0]) == contents(outs[1])
    assert not [path for path in tmp_path.rglob("*.part")]


def test_official_formats(files, folder, tmp_path):
    predict(
        "voc", "--images", folder, "--out", tmp_path / "voc", "--weights", files["03"], "--draw", tmp_path / "drawn"
    )
    files_of_classes = (tmp_path / "voc").glob("comp4_det_test_*.txt")
    lines = [line.split() for file in files_of_classes for line in file.read_text().splitlines()]
    assert len(list((tmp_path / "voc").iterdir())) == 20 and lines
    sizes = {f"street_{i:02d}": (80 + 20 * (i % 2), 60) for i in range(20)}
    for name, score, *box in lines:
        x1, y1, x2, y2 = map(float, box)
        width, height = sizes[name]
        assert 0 < float(score) <= 1 and 1 <= x1 <= x2 < width + 0.01 and 1 <= y1 <= y2 < height + 0.01
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 19

    predict("camvid", "--images", folder, "--out", tmp_path / "camvid", "--weights", files["05"])
    classes = np.array(Image.open(tmp_path / "camvid" / "street_01.png"))
    assert classes.shape == (60, 100) and classes.dtype == np.uint8 and classes.max() <= 10

    predict("cars", "--images", folder, "--out", tmp_path / "cars.csv", "--weights", files["06"])
    ids, names, values = read_submission(tmp_path / "cars.csv")
    assert ids[0] == "street_00" and len(ids) == 19 and list(names) == CARS
    assert values.sum(1) == pytest.approx(1, abs=1e-5)


def test_folders_that_cannot_be_asked_about(files, folder, tmp_path):
    options = ("--out", tmp_path / "out", "--weights", files["05"])
    assert "no such folder" in predict("camvid", "--images", tmp_path / "nowhere", *options).output
    (tmp_path / "empty").mkdir()
    assert "no image in it" in predict("camvid", "--images", tmp_path / "empty", *options).output
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"x")
    assert "none of its 1 images can be read" in predict("camvid", "--images", tmp_path / "broken", *options).output
    Image.fromarray(photograph()).save(tmp_path / "broken" / "a.png")
    assert (
        "a.jpg and a.png would share one answer" in predict("camvid", "--images", tmp_path / "broken", *options).output
    )
    assert not (tmp_path / "out").exists()


# --- kdnb export ------------------------------------------------------------------------------------------------


def random_inputs(inputs, count, generator):
    """Pixels and numbers of ``count`` images; where the module takes one image, of that."""
    values = {}
    for name, value in inputs.items():
        shape = value.shape if value.ndim == 3 else (count, *value.shape[1:])
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        values[name] = pixels if value.dtype == torch.uint8 else torch.rand(shape, generator=generator)
    return values


def both_answers(student, file, count, generator):
    """What PyTorch and ONNX Runtime say of the same random images: two lists of arrays."""
    runtime = pytest.importorskip("onnxruntime")
    module, inputs, names = student.deployed()
    values = random_inputs(inputs, count, generator)
    with torch.no_grad():
        expected = module(*values.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(names, {name: value.numpy() for name, value in values.items()})
    return [one.numpy() for one in expected], found


@pytest.mark.parametrize("number", MADE)
def test_onnx_runtime_says_what_pytorch_says(number, files, tmp_path):
    pytest.importorskip("onnx")
    out = tmp_path / "student.onnx"
    done = CliRunner().invoke(main, ["export", number, "--out", str(out), "--weights", str(files[number])])
    assert done.exit_code == 0, done.output
    student, generator = load_student(number, weights=files[number]), torch.Generator().manual_seed(0)
    for count in (1, 5):  # the number of images is free, but for 03, which gets another image
        expected, found = both_answers(student, out, count, generator)
        assert [one.shape for one in found] == [one.shape for one in expected] and len(found[0])
        assert np.abs(found[0] - expected[0]).max() < 1e-3


def test_eight_bits_are_smaller_and_nearly_the_same(files, tmp_path):
    pytest.importorskip("onnx")
    sizes = {}
    for options in ((), ("--int8",)):
        out = tmp_path / f"student{len(options)}.onnx"
        done = CliRunner().invoke(main, ["export", "06", "--out", str(out), "--weights", str(files["06"]), *options])
        assert done.exit_code == 0, done.output
        sizes[options] = out.stat().st_size
    assert sizes["--int8",] < 0.8 * sizes[()]  # so small a network is half graph
    student = load_student("06", weights=files["06"])
    expected, found = both_answers(student, out, 4, torch.Generator().manual_seed(0))
    assert np.abs(found[0] - expected[0]).max() < 0.05  # probabilities
