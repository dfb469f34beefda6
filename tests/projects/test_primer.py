import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from kdnb.datasets.car_views import collate
from kdnb.errors import InputError
from kdnb.experiment.step_cost import bench_table
from kdnb.options import load_settings
from kdnb.projects import primer as project
from kdnb.projects.primer import Primer, lessons
from kdnb.projects.primer.__main__ import main
from kdnb.run import Run
from kdnb.viz import primer as figures


def settings_of(profile="smoke", **changes):
    return load_settings(project.PrimerSettings, profile, **changes)


def started(results, data, root, **changes):
    settings = settings_of(**changes)
    return Primer(Run.start(Primer.project, "smoke", 0, results, settings), settings, data, root)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("rendered")


@pytest.fixture(scope="module")
def data(root):
    return project.open_data(settings_of(), root=root)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, data, root):
    """Arms that one test trains are there for those that come after."""
    return started(tmp_path_factory.mktemp("runs"), data, root)


# --- settings and data ------------------------------------------------------------------------------------------


def test_profiles():
    for profile in ("smoke", "lite", "full"):
        settings = settings_of(profile)
        assert settings.offline().teacher.pretrained is settings.offline().student.pretrained is False
    with pytest.raises(InputError, match="did you mean 'student_steps'"):
        settings_of(student_stepz=1)
    with pytest.raises(InputError, match="temperature"):
        settings_of(temperature=0)


def test_crops_are_those_of_01_with_the_category_as_label(data):
    for split in (data.train, data.validation, data.test):
        assert len(split) == len(split.labels) > 0
        regions = split.regions.data.regions
        assert [data.classes[label] for label in split.labels] == [regions[i].category for i in split.indices]
    of_train, of_validation = (
        {one.regions.data.regions[i].image_id for i in one.indices} for one in (data.train, data.validation)
    )
    assert not of_train & of_validation  # no image on both sides
    count = np.bincount(data.train.labels, minlength=len(data.classes))
    assert count.min() >= settings_of().fewest


def test_the_largest_come_first(data):
    rows, regions = data.train.by_size(0), data.train.regions.data.regions
    boxes = np.array([regions[data.train.indices[row]].box for row in rows])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert (np.diff(sides) <= 0).all() and set(data.train.labels[rows]) == {0}
    assert len(rows) == (data.train.labels == 0).sum()


def test_only_some_rows_have_labels(data):
    some = data.train.with_labels([0, 3])
    batch = collate([some[row, view] for row, view in ((0, "plain"), (1, "plain_flip"), (3, "plain"))])
    assert batch["labelled"].tolist() == [True, False, True]
    assert batch["labels"].tolist() == [int(data.train.labels[0]), -1, int(data.train.labels[3])]
    assert batch["images"].shape == (3, 3, 32, 32) and batch["meta"].shape == (3, 0)
    assert torch.equal(batch["images"][1], data.train[1, "plain"]["image"].flip(-1))


def test_too_many_labels_are_refused(root):
    with pytest.raises(InputError, match="labels of each are asked for"):
        project.open_data(settings_of(few_labels=1000), root=root)
    with pytest.raises(InputError, match="0 categories have 9999 objects"):
        project.open_data(settings_of(fewest=9999), root=root)


# --- arms -------------------------------------------------------------------------------------------------------


def test_few_labels_are_as_many_of_each_class_and_more_hold_the_fewer(experiment):
    few, more = set(experiment.labelled(1)), set(experiment.labelled(2))
    assert few < more and len(experiment.labelled(0)) == len(experiment.data.train)
    count = np.bincount(experiment.data.train.labels[sorted(more)])
    assert (count == 2 * experiment.settings.few_labels).all()


def test_batches_of_arms(experiment):
    """A student alone sees labelled crops only; a distilled one fills half of each batch with the others."""
    few, size = set(experiment.labelled(1)), experiment.settings.batch
    plans = {name: experiment.batches(experiment.known[name])[1] for name in experiment.arms if "matched" not in name}
    alone, taught = plans["few_labels_baseline"], plans["few_labels_distilled"]
    for step in range(3):
        assert {row for row, _ in alone.batch(step)} <= few and len(alone.batch(step)) == size
        assert sum(row in few for row, _ in taught.batch(step)) == size // 2
    assert plans["baseline"].batch(5) == plans["distilled"].batch(5) != plans["baseline_again"].batch(5)


def test_arms_share_their_start_and_differ_where_they_say(experiment):
    """Without a step every student has the same weights, but the one that is trained again."""
    names = ("baseline", "distilled", "baseline_again")
    seeds = {name: experiment.seed_of(experiment.known[name]) for name in names}
    assert seeds["baseline"] == seeds["distilled"] != seeds["baseline_again"]


def test_every_kind_of_arm_trains(experiment):
    names = (
        "teacher",
        "weak_teacher",
        "baseline",
        "distilled",
        "few_labels_features",
        "few_labels_relations",
        "from_weak_teacher",
        "long_baseline",
        "few_labels_x2_distilled",
        "few_labels_all_terms",
    )
    for name in names:
        result = experiment.train(name)
        assert np.isfinite(result.numbers["log_loss"]) and result.numbers["steps"] > 0
    settings = experiment.settings
    assert experiment.train("distilled").training.steps == settings.student_steps
    assert experiment.train("long_baseline").training.steps == 2 * settings.student_steps
    assert experiment.train("weak_teacher").training.steps == settings.weak_steps
    history = experiment.train("few_labels_all_terms").training.history[-1]
    assert {"task", "kd_logits", "kd_features", "kd_relations"} <= set(history)
    assert all(np.isfinite(value) for value in history.values())


def test_scores_are_sklearns(experiment):
    logits, labels = experiment.logits("baseline"), experiment.data.test.labels
    numbers = experiment.train("baseline").numbers
    assert numbers["accuracy"] == pytest.approx(100 * accuracy_score(labels, logits.argmax(1)))
    chances = logits.double().softmax(1).numpy()
    expected = log_loss(labels, chances, labels=range(len(experiment.data.classes)))
    assert numbers["log_loss"] == pytest.approx(expected, rel=1e-4)


def test_a_weak_teacher_is_refused_unless_asked_for(experiment, tmp_path, data, root):
    other = started(tmp_path, data, root, allow_weaker_teacher=False)
    for name in ("teacher", "baseline", "weak_teacher"):
        other.results[name] = dataclasses.replace(experiment.train(name))
    other.results["baseline"].validation, other.results["weak_teacher"].validation = 40.0, 30.0
    with pytest.raises(InputError, match=r"validation accuracy 30.00 is not above the student's own 40.00"):
        other.check_teacher("weak_teacher")
    other.results["weak_teacher"].validation = 41.0
    other.check_teacher("weak_teacher")
    # an arm that learns from it on purpose needs the project's own teacher to be good, and no other
    other.results["teacher"].validation, other.results["weak_teacher"].validation = 50.0, 30.0
    assert other.needs("from_weak_teacher") == ["teacher", "baseline", "weak_teacher"]
    other.before_training("from_weak_teacher")


def test_metrics_and_curve(experiment):
    experiment.train("few_labels_x2_baseline")
    experiment.train("few_labels_baseline")
    comparisons = experiment.save()
    written = json.loads((experiment.run.folder / "metrics.json").read_text())
    assert written["primary"] == "accuracy" and set(written["comparisons"]) == set(comparisons)
    baseline, distilled = (experiment.train(name).predictions["correct"] for name in ("baseline", "distilled"))
    gain = 100 * (np.mean(distilled) - np.mean(baseline))
    assert comparisons["distilled_vs_baseline"].delta == pytest.approx(gain)
    curve = experiment.scores_by_labels("baseline")
    classes, few = len(experiment.data.classes), experiment.settings.few_labels
    assert sorted(curve) == [classes * few, 2 * classes * few, len(experiment.data.train)]
    assert {"flops", "latency_ms"} <= set(written["arms"]["teacher"])


def test_an_arm_is_read_back(experiment, data, root):
    again = Primer(experiment.run, experiment.settings, data, root)
    assert torch.equal(again.logits("baseline"), experiment.logits("baseline"))


def test_the_command_line_names_the_arms_that_the_settings_make(tmp_path, root):
    places = ["--root", str(root), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="few_labels_x4_distiled.*did you mean 'few_labels_x4_distilled'"):
        main(["--profile", "smoke", "--set", "more_labels=[4]", "--stage", "few_labels_x4_distiled", *places])


def test_kept_outputs_stand_for_the_live_teacher(tmp_path, data, root):
    losses = []
    for keep in (False, True):
        kept = started(tmp_path / str(keep), data, root, cache_teacher=keep)
        losses.append(kept.train("few_labels_all_terms").training.history)
    for live, read in zip(*losses, strict=True):  # kept in float16
        assert read == pytest.approx(live, rel=1e-2)


def test_bench(root):
    assert "KD step, kept outputs" in bench_table(Primer, root=root, teacher_steps=1, student_steps=1)


# --- terms ------------------------------------------------------------------------------------------------------


def test_terms_are_zero_for_a_student_that_is_its_teacher():
    terms = {term.name: term for term in project.build_terms(("kd_logits", "kd_relations"), settings_of(), (8, 8))}
    seen = {"logits": torch.randn(5, 4), "features": torch.randn(5, 8), "progress": 0.5}
    for term in terms.values():
        value = term.compare(term.read_student(seen), term.read_teacher(seen, seen), seen)
        assert value.item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="unknown term 'kd_feature', expected some of kd_logits"):
        project.build_terms(("kd_feature",), settings_of(), (8, 8))


def test_the_adapter_leads_from_one_width_to_the_other():
    (term,) = project.build_terms(("kd_features",), settings_of(), (6, 10))
    student, teacher = {"features": torch.randn(5, 6)}, {"features": torch.randn(5, 10)}
    value = term.compare(term.read_student(student), term.read_teacher(teacher, student), student)
    cosine = torch.nn.functional.cosine_similarity(term.adapter(student["features"]), teacher["features"])
    assert value.item() == pytest.approx(1 - cosine.mean().item(), abs=1e-6)


# --- lessons ----------------------------------------------------------------------------------------------------


def test_second_choices_by_hand():
    chances = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    table = lessons.second_choices(chances.log(), [0, 0, 1])
    assert table[0] == pytest.approx([0, 100 * (2 / 3 + 3 / 4) / 2, 100 * (1 / 3 + 1 / 4) / 2])  # one vote an image
    assert table[1] == pytest.approx([50, 0, 50]) and table[2].tolist() == [0, 0, 0]


def test_alike_classes_become_neighbours():
    table = np.array([[0, 5, 90, 5], [5, 0, 5, 90], [90, 5, 0, 5], [5, 90, 5, 0]], float)
    order = lessons.order_of_likeness(table)
    assert sorted(order) == [0, 1, 2, 3]
    assert abs(order.index(0) - order.index(2)) == 1 and abs(order.index(1) - order.index(3)) == 1


def test_the_pull_is_that_of_the_softmaxes():
    """d/ds of KL at temperature T is (softmax(s/T) - softmax(t/T)) / T; T² makes it T times the difference."""
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    table = lessons.pull(student, teacher, [1, 4])
    for T in (1, 4):
        difference = ((student / T).softmax(1) - (teacher / T).softmax(1)).norm(dim=1).mean().item()
        assert table.loc[T, "with T²"] == pytest.approx(T * difference, rel=1e-4)
        assert table.loc[T, "without"] == pytest.approx(difference / T, rel=1e-4)


def test_without_luck_verdicts_are_as_rare_as_promised_and_with_luck_common():
    calm = lessons.false_verdicts(500, 0.2, 0.0, (1, 3), trials=300)
    assert 1 <= calm[1] <= 10 and calm[3] <= 25
    wild = lessons.false_verdicts(2000, 0.2, 4.0, (1, 3), trials=300)
    # the sign of one seed's difference is all a bootstrap over items needs; three signs agree one time in four
    assert wild[1] > 50 and 12 < wild[3] < 0.8 * wild[1]


def test_differing_counts_what_one_alone_gets_right():
    assert lessons.differing([1, 0, 1, 1], [1, 1, 1, 0]) == 0.5


# --- figures ----------------------------------------------------------------------------------------------------


def test_figures_show_their_numbers():
    figure = figures.second_choices(np.array([[0.0, 100, 0], [25, 0, 75], [0, 100, 0]]), ["a", "b", "c"], [2, 1, 0])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "b", "a"]
    assert sorted(text.get_text() for text in axes.texts) == sorted(["100", "0", "25", "75", "0", "100"])
    table = lessons.pull(torch.randn(4, 3), torch.randn(4, 3), [1, 2, 8])
    lines = {line.get_label(): line.get_ydata() for line in figures.pulls(table).axes[0].lines}
    assert list(lines["without"]) == pytest.approx(table["without"].tolist())
    assert lines["falls as 1/T²"][0] == pytest.approx(64 * lines["without"][-1])
    rates = {0.0: {1: 5.0, 3: 8.0}, 2.0: {1: 60.0, 3: 25.0}}
    lines = {line.get_label(): list(line.get_ydata()) for line in figures.false_verdicts(rates, 1.0).axes[0].lines}
    assert lines["1 seed each"] == [5.0, 60.0] and lines["3 seeds each"] == [8.0, 25.0]
