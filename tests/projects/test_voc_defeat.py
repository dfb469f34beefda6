import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from commands import TORCHRUN, carry_out, interrupted_after, python, stages
from safetensors.torch import load_file

from kdnb.datasets.detection import VIEWS, DetectionViews, collate, flip_boxes
from kdnb.distill.distiller import LiveTeacher
from kdnb.engine import Plan
from kdnb.errors import InputError
from kdnb.experiment.step_cost import bench_table
from kdnb.models.detector import detection_step, full_detector
from kdnb.options import load_settings
from kdnb.projects import voc_defeat as project
from kdnb.projects.voc_defeat import VocDefeat
from kdnb.projects.voc_defeat.__main__ import main
from kdnb.run import Run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


def settings_of(**changes):
    return load_settings(project.VocDefeatSettings, "smoke", **changes)


@pytest.fixture(scope="module")
def data(drawn):
    return project.open_data(settings_of(), root=drawn)


@pytest.fixture
def experiment(tmp_path, data, drawn):
    settings = settings_of()
    return VocDefeat(Run.start(VocDefeat.project, "smoke", 0, tmp_path, settings), settings, data, drawn)


def one_batch(data, size=2):
    views = DetectionViews(data.train)
    return collate([views[key] for key in Plan([(range(len(views)), size)], VIEWS).batch(0)])


def test_all_profiles_are_valid_settings():
    for profile in ("smoke", "lite", "full"):
        settings = load_settings(project.VocDefeatSettings, profile)
        assert (settings.foreground_weight, settings.background_weight) == (3, 12)
    assert settings.teacher.backbone == "resnet101" and settings.student.backbone == "resnet50"


def test_an_unknown_setting_names_its_neighbour():
    with pytest.raises(InputError, match="did you mean 'student_steps'"):
        settings_of(student_stepz=3)


def test_lite_student_is_two_and_a_half_times_smaller():
    settings = load_settings(project.VocDefeatSettings, "lite")
    teacher, student = (project.build(n, settings, 0) for n in (settings.teacher, settings.student))
    count = [sum(p.numel() for p in model.parameters()) for model in (teacher, student)]
    assert count[0] >= 2.5 * count[1]


def test_validation_is_held_out_and_never_test(data):
    assert (len(data.train), len(data.validation), len(data.test)) == (21, 3, 8)
    ids = [{split[i]["id"] for i in range(len(split))} for split in (data.train, data.validation, data.test)]
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])


def test_flip_mirrors_picture_and_boxes(data):
    views = DetectionViews(data.train)
    plain, flip = views[0, "plain"], views[0, "flip"]
    assert torch.equal(plain["image"].flip(-1), flip["image"])
    assert torch.equal(flip_boxes(flip["boxes"], 160), plain["boxes"])
    with pytest.raises(InputError, match="unknown view 'crop'"):
        views[0, "crop"]


def test_unlabelled_pictures_show_no_label(data):
    boxes = torch.tensor([[1.0, 2, 30, 40]])
    views = DetectionViews(data.train, labelled=[0], teacher_boxes={1: boxes})
    assert views[0, "plain"]["labelled"] and not views[1, "plain"]["labelled"]
    assert torch.equal(views[1, "plain"]["boxes"], boxes) and len(views[2, "plain"]["boxes"]) == 0


def test_same_network_has_no_distillation_loss_without_adapter(data):
    settings = settings_of()
    twin = project.build(settings.teacher, settings, 0)
    student = project.build(settings.teacher, settings, 0).eval()
    student.train()
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # as in the teacher
    out = project.build_distiller(student, twin, ("pkd", "head_fg", "head_bg"), settings)(one_batch(data))
    for name in ("pkd", "head_fg", "head_bg"):
        assert out[name].item() == pytest.approx(0, abs=1e-4)


def test_adapters_start_small_and_draw_no_global_random_numbers(data):
    settings = settings_of()
    teacher = project.build(settings.teacher, settings, 0)
    before = torch.get_rng_state()
    terms = project.build_terms(project.DEFEAT, settings, teacher)
    assert torch.equal(before, torch.get_rng_state())
    assert terms[0].adapter is terms[1].adapter
    assert all(convolution.weight.abs().max() <= 2e-4 for convolution in terms[0].adapter)


def test_weights_zero_train_the_baseline_bit_for_bit(tmp_path, data, drawn):
    """The contract of the core, on the real project: the arm `distilled` with weights 0 is the arm `baseline`."""
    settings = settings_of(foreground_weight=0.0, background_weight=0.0)
    run = Run.start(VocDefeat.project, "smoke", 0, tmp_path, settings)
    experiment = VocDefeat(run, settings, data, drawn)
    baseline, distilled = experiment.train("baseline"), experiment.train("distilled")
    for key, value in baseline.model.state_dict().items():
        assert torch.equal(value, distilled.model.state_dict()[key])


def test_a_step_with_kept_outputs_equals_a_live_one(experiment, data):
    settings, batch = experiment.settings, one_batch(data)
    teacher = experiment.train("teacher").model
    parts = []
    for source in (None, experiment.teacher_outputs("teacher")):
        student = project.build(settings.student, settings, 0).train()
        torch.manual_seed(0)
        parts.append(project.build_distiller(student, teacher, (*project.DEFEAT, "pkd"), settings, source)(batch))
    for name in parts[0]:
        assert parts[0][name].item() == pytest.approx(parts[1][name].item(), rel=5e-3)  # they are kept as float16


def test_teacher_outputs_are_kept_only_where_the_settings_say_so(tmp_path, data, drawn):
    settings = settings_of(cache_teacher=False)
    experiment = VocDefeat(Run.start(VocDefeat.project, "smoke", 0, tmp_path, settings), settings, data, drawn)
    experiment.train("distilled")
    assert not (experiment.run.folder / "cache").exists()


def test_a_finished_arm_is_read_back_not_trained_again(experiment, data, drawn):
    first = experiment.train("baseline")
    other = VocDefeat(experiment.run, experiment.settings, data, drawn)
    assert other.train("baseline").numbers == json.loads(json.dumps(first.numbers).replace("NaN", "null"))
    again = other.detections("baseline")
    for image, detections in experiment.predict(first.model, "test", experiment.arms["baseline"]).items():
        for key, value in detections.items():
            assert torch.equal(value, again[image][key])


def test_the_matched_student_gets_the_steps_that_distilling_costs(experiment):
    """The factor is what the saved times say, and it is measured once for all processes of a run."""
    experiment.train("baseline_matched")
    factor, steps = experiment.cost_factor("distilled"), experiment.settings.student_steps
    saved = json.loads((experiment.run.folder / "step_cost_distilled.json").read_text())
    kept_ms = 1000 * experiment.teacher_outputs("teacher").seconds / steps
    assert factor == pytest.approx((saved["distilling"] + kept_ms) / saved["plain"])
    assert experiment.cost_factor("distilled") == factor
    assert experiment.train("baseline_matched").training.steps == round(steps * max(1.0, factor))


def test_a_weak_teacher_is_refused(tmp_path, data, drawn):
    settings = settings_of(allow_weaker_teacher=False)
    experiment = VocDefeat(Run.start(VocDefeat.project, "smoke", 0, tmp_path, settings), settings, data, drawn)
    experiment.train("teacher").validation, experiment.train("baseline").validation = 10.0, 20.0
    with pytest.raises(InputError, match="teacher's validation mAP50 10.00 is not above the student's own 20.00"):
        experiment.check_teacher()


def test_a_run_goes_on_only_with_its_own_data(tmp_path, drawn):
    settings = settings_of()
    run = Run.start(VocDefeat.project, "smoke", 0, tmp_path, settings, tmp_path)
    with pytest.raises(SystemExit, match="expected the same --data"):
        main(["--run", str(run.folder), "--root", str(drawn)])


def test_necks_that_differ_are_refused(data):
    teacher = full_detector("resnet50", 21, (160, 96), pretrained=False)
    settings = settings_of()
    student = project.build(settings.student, settings, 0)
    with pytest.raises(InputError, match="5 and 4 pyramid levels of 256 and 64 channels"):
        project.build_distiller(student, teacher, project.DEFEAT, settings)


def test_a_mobilenet_learns_from_a_resnet(data):
    settings = settings_of(level_base=9.0)
    teacher = full_detector("resnet50", 21, (160, 96), pretrained=False)
    student = full_detector("mobilenet_v3_large", 21, (160, 96), pretrained=False).train()
    parts = project.build_distiller(student, teacher, ("pkd",), settings)(one_batch(data))
    parts["loss"].backward()
    assert torch.isfinite(parts["pkd"])


def test_bench_names_every_ratio(drawn):
    table = bench_table(VocDefeat, "smoke", drawn)
    assert all(name in table for name in ("plain step", "teacher forward", "KD step, live", "KD step, kept outputs"))
    assert re.search(r"plain step +[\d.]+ +1\.00", table)


def test_inherited_heads_are_the_teachers(data):
    settings = settings_of()
    teacher, student = (project.build(n, settings, s) for s, n in enumerate((settings.teacher, settings.student)))
    project.inherit_heads(student, teacher)
    assert torch.equal(student.roi_heads.box_head.fc6.weight, teacher.roi_heads.box_head.fc6.weight)
    other = project.build(settings.student.model_copy(update={"head": 32}), settings, 0)
    with pytest.raises(InputError, match="differ in shape"):
        project.inherit_heads(other, teacher)


MODULE = ("-m", "kdnb.projects.voc_defeat")


def test_torchrun_with_two_processes_matches_one(tmp_path, drawn, capsys):
    """gloo, two processes, half of each batch each: the first losses agree with one process up to BatchNorm's
    statistics, which each process takes of its own half, and the sampling of proposals."""
    options = ["--profile", "smoke", "--root", drawn]
    arms = stages("teacher", "baseline", "test")  # the others: 06, whose two processes train all arms
    printed, _ = python(*TORCHRUN, *MODULE, *options, *arms, "--out", tmp_path / "two", cwd=tmp_path)
    assert printed.count("results: ") == 1
    (two,) = (tmp_path / "two").iterdir()
    assert set(json.loads((two / "metrics.json").read_text())["arms"]) == {"teacher", "baseline"}
    one = carry_out(main, capsys, *options, *stages("teacher", "baseline"), "--out", tmp_path / "one")
    for arm in ("teacher", "baseline"):
        first_losses = [
            json.loads((folder / "arms" / f"{arm}.json").read_text())["training"]["history"][0]["loss"]
            for folder in (one, two)
        ]
        assert first_losses[0] == pytest.approx(first_losses[1], rel=0.1)


def test_an_interrupted_run_ends_at_the_same_weights(tmp_path, drawn, capsys):
    """The real detector, which draws random numbers in every step. SIGKILL: test_engine.py and test_car_kfold.py."""
    same = ["--root", drawn, *stages("baseline")]
    change = ["--profile", "smoke", "--set", "student_steps=6", "--set", "checkpoint_every=1"]
    whole = carry_out(main, capsys, *change, *same, "--out", tmp_path / "whole")
    with interrupted_after(3):
        carry_out(main, capsys, *change, *same, "--out", tmp_path / "stopped")
    (folder,) = (tmp_path / "stopped").iterdir()
    assert (folder / "checkpoints" / "baseline.pt").exists() and not (folder / "arms" / "baseline.json").exists()
    with interrupted_after(1):  # of those after the first three
        carry_out(main, capsys, "--run", folder, *same)
    carry_out(main, capsys, "--run", folder, *same)
    one, two = (load_file(f / "weights" / "baseline.safetensors") for f in (whole, folder))
    assert one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())


def test_headless_stages_share_a_run_folder(tmp_path, drawn):
    root = ["--root", str(drawn)]
    main(["--profile", "smoke", *root, "--stage", "teacher", "--out", str(tmp_path)], standalone_mode=False)
    (folder,) = tmp_path.iterdir()
    for stage in ("distilled", "test"):
        main(["--run", str(folder), *root, "--stage", stage], standalone_mode=False)
    metrics = json.loads(Path(folder, "metrics.json").read_text())
    assert set(metrics["arms"]) == {"teacher", "baseline", "distilled"}
    assert set(metrics["comparisons"]) == {"distilled_vs_baseline"}
    assert metrics["arms"]["teacher"]["flops"] > metrics["arms"]["baseline"]["flops"] > 0
    assert yaml.safe_load(Path(folder, "config.yaml").read_text())["profile"] == "smoke"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "parameter DATA is 'nowhere', which does not exist"),
        (["--set", "stepz=3"], "unknown setting 'stepz'"),
        (["--set", "batch=many"], "setting 'batch' .* is 'many', expected"),
        (["--run", "empty"], "no config.yaml there"),
        (["--set", "few_labels=21"], "few_labels is 21, expected fewer than the 21 training items"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, drawn, options, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["--profile", "smoke", "--root", str(drawn), *options])
    assert re.match(f"kdnb: .*{message}", left.value.code) and "\n" not in left.value.code


def test_a_wrong_option_ends_the_process_with_one_line(tmp_path):
    _, errors = python(*MODULE, "--data", "nowhere", cwd=tmp_path, status=1)
    assert errors == "kdnb: parameter DATA is 'nowhere', which does not exist; expected the root of a data set\n"


def test_full_step_from_r101_to_r50_on_two_photographs(real_data):
    """The original's networks, sizes and terms, random weights, one training step on photographs."""
    settings = load_settings(project.VocDefeatSettings, "full", size=(333, 200))
    data = project.open_data(
        settings.model_copy(update={"train_sets": [("2007", "trainval")], "workers": 0}),
        real_data / "voc" / "VOCdevkit",
    )
    torch.manual_seed(0)
    teacher = full_detector("resnet101", 21, settings.size, pretrained=False)
    student = full_detector("resnet50", 21, settings.size, pretrained=False).train()
    distiller = project.build_distiller(student, teacher, (*project.DEFEAT, "head_fg", "head_bg"), settings)
    optimizer = torch.optim.SGD(distiller.parameters(), 1e-3)
    before = student.backbone.body.layer4[0].conv1.weight.detach().clone()
    parts = distiller(one_batch(data))
    parts["loss"].backward()
    optimizer.step()
    assert all(torch.isfinite(value) for value in parts.values())
    assert list(parts)[-4:] == ["neck_fg", "neck_bg", "head_fg", "head_bg"]
    assert len(distiller.adapters["neck_fg"]) == 5  # P2 to P6
    assert not torch.equal(before, student.backbone.body.layer4[0].conv1.weight)


def test_live_teacher_sees_the_students_pixels(data):
    settings = settings_of()
    teacher = project.build(settings.teacher, settings, 0)
    student = project.build(settings.student, settings, 0).train()
    seen = detection_step(student, one_batch(data))
    told = LiveTeacher(teacher, project.teacher_step).observe(one_batch(data), seen, [])
    assert [m.shape for m in told["features"].values()] == [m.shape for m in seen["features"].values()]
