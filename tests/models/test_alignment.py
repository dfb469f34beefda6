import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from kdnb.datasets.coco import COCORegionText, category_text
from kdnb.datasets.region_views import RegionViews
from kdnb.distill.alignment import embedding_l2, multi_positive_infonce, similarity_kd
from kdnb.distill.distiller import Distiller, LiveTeacher
from kdnb.distill.losses import cosine_loss
from kdnb.distill.teacher_outputs import TeacherOutputs
from kdnb.distill.terms import Term
from kdnb.engine import accelerator
from kdnb.errors import InputError
from kdnb.models.alignment import Student, alignment_step
from kdnb.models.clip import build_tokenizer, encode_texts, full_teacher, lite_teacher, teacher_step

TEXTS = ["a car", "a truck", "a person"]


def random_images(n, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    model = lite_teacher()
    return LiveTeacher(model, teacher_step), encode_texts(model, build_tokenizer(), TEXTS)


def student(seed=0, **options):
    torch.manual_seed(seed)
    return Student("test_convnext2", 128, output_stride=16, **options)


def batch_of(texts, n=6):
    positive = F.one_hot(torch.arange(n) % len(texts), len(texts)).bool()
    return {
        "images": random_images(n),
        "texts": texts,
        "positive": positive,
        "ids": [str(i) for i in range(n)],
        "views": ["plain"] * n,
    }


def kd_terms(texts):
    return [
        Term("similarity", partial(similarity_kd, texts=texts, scale=20.0), "embedding", "embedding"),
        Term("cosine", cosine_loss, "embedding", "embedding"),
        Term("l2", embedding_l2, "embedding", "embedding"),
    ]


@pytest.mark.parametrize("stride, side", [(32, 1), (16, 2), (8, 4)])
def test_output_stride_sets_the_cells_of_a_crop(stride, side):
    model = Student("test_convnext2", 128, output_stride=stride)
    assert model.feature_map(random_images(2)).shape == (2, 128, side, side)
    assert model(random_images(2)).shape == (2, 128)


@pytest.mark.parametrize("multi_scale", [False, True])
@pytest.mark.parametrize("stride", [16, 32])
def test_the_embedding_is_the_mean_of_the_feature_map(multi_scale, stride):
    model = Student("test_convnext2", 128, output_stride=stride, multi_scale=multi_scale)
    images = random_images(2, 64)
    cells = model.feature_map(images)
    assert torch.allclose(cells.mean((2, 3)), model(images), atol=1e-5)
    assert not torch.allclose(cells[:, :, 0, 0], cells[:, :, 1, 1], atol=1e-3)


def test_multi_scale_hears_all_three_stages():
    model = student(multi_scale=True)
    assert model.project.in_features == 64 + 96 + 128
    assert model.feature_map(random_images(1, 96)).shape == (1, 128, 6, 6)  # the middle stage, stride 16
    model(random_images(2)).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name != "logit_scale")


def test_the_middle_cells_see_where_things_are():
    """The cell of a feature map that changes most is the one whose pixels changed."""
    model = student(multi_scale=True).eval()
    images = random_images(1, 96)
    changed = images.clone()
    changed[:, :, 16:32, 64:80] = 255  # row 1, column 4 at stride 16
    change = (model.feature_map(changed) - model.feature_map(images)).norm(dim=1)[0]
    assert divmod(change.argmax().item(), 6) == (1, 4)


def test_embeddings_are_negative_as_often_as_positive():
    """A final ReLU would leave half of the teacher's space out of reach."""
    assert 0.2 < (student()(random_images(16)) < 0).float().mean() < 0.8


def test_the_step_is_infonce_on_unit_vectors(teacher):
    model, batch = student(), batch_of(teacher[1])
    seen = alignment_step(model, batch)
    assert torch.allclose(seen["embedding"].norm(dim=1), torch.ones(6))
    expected = multi_positive_infonce(seen["embedding"], batch["texts"], batch["positive"], 1 / 0.07)
    assert seen["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    seen["loss"].backward()
    assert all(p.grad is not None for p in model.parameters()) and model.logit_scale.grad != 0
    assert alignment_step(model, batch, weight=0.25)["loss"].item() == pytest.approx(expected.item() / 4, rel=1e-5)


@pytest.mark.filterwarnings("ignore:term .* more than 10 times")
def test_without_labels_every_parameter_still_has_a_gradient(teacher):
    """As DDP wants it; and the terms alone train the student."""
    model, batch = student(), batch_of(teacher[1])
    batch["positive"] = torch.zeros_like(batch["positive"])
    parts = Distiller(model, teacher[0], kd_terms(teacher[1]), alignment_step)(batch)
    parts["loss"].backward()
    assert parts["task"] == 0 and all(p.grad is not None for p in model.parameters())
    assert model.project.weight.grad.abs().sum() > 0


def test_terms_are_equal_with_a_live_teacher_and_with_kept_outputs(teacher, tmp_path):
    batch = batch_of(teacher[1])
    kept = TeacherOutputs(teacher[0], tmp_path, "random", batch["ids"], ["plain"], ["embedding"])
    kept.fill(lambda _: [batch], accelerator())
    sources = (teacher[0], kept)
    live, cached = (Distiller(student(), source, kd_terms(teacher[1]), alignment_step)(batch) for source in sources)
    assert list(live) == ["loss", "task", "similarity", "cosine", "l2"]
    for name, value in live.items():
        assert cached[name].item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:term .* more than 10 times")
def test_a_student_learns_the_teachers_embeddings(teacher):
    model, batch = student(), batch_of(teacher[1])
    distiller = Distiller(
        model, teacher[0], [Term("cosine", cosine_loss, "embedding", "embedding")], partial(alignment_step, weight=0.0)
    )
    optimizer = torch.optim.AdamW(distiller.parameters(), 2e-3)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        parts = distiller(batch)
        parts["loss"].backward()
        optimizer.step()
        values.append(parts["cosine"].item())
    assert values[-1] < 0.3 * values[0]


def test_the_students_file_is_plain(teacher):
    model = student(multi_scale=True)
    saved = copy.deepcopy(Distiller(model, teacher[0], kd_terms(teacher[1]), alignment_step).student.state_dict())
    other = student(seed=1, multi_scale=True)
    other.load_state_dict(saved)
    assert torch.equal(other(random_images(2)), model(random_images(2)))
    assert {name.split(".")[0] for name in saved} == {"trunk", "norms", "project", "logit_scale"}


def test_blocks_count_from_the_first_step():
    gammas = [p for name, p in student().named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 4 and all((p == 1).all() for p in gammas)


def test_other_backbones_are_refused():
    for name in ("resnet18", "convnext_tinny"):
        with pytest.raises(InputError, match=f"'{name}' is not a timm ConvNeXt"):
            Student(name, 128)


def test_a_full_step_of_the_originals_on_photographs(real_data):
    """ViT-B-32 and convnext_tiny from random weights on one region of each of two photographs, all terms; some 3 s."""
    torch.manual_seed(0)
    regions = COCORegionText(real_data / "coco", "val")
    first = {region.file: index for index, region in reversed(list(enumerate(regions.regions)))}
    views = RegionViews(regions, 224, sorted(first.values())[:2])
    images = torch.stack([views[index, "plain"]["image"] for index in views.indices])
    model = full_teacher("ViT-B-32")
    words = [category_text(regions.regions[index]) for index in views.indices]
    texts = encode_texts(model, build_tokenizer("ViT-B-32"), [*words, "a photo of a small zebra"])
    pupil = Student("convnext_tiny", texts.shape[1], multi_scale=True)
    batch = {"images": images, "texts": texts, "positive": torch.eye(2, 3, dtype=torch.bool)}
    parts = Distiller(pupil, LiveTeacher(model, teacher_step), kd_terms(texts), alignment_step)(batch)
    parts["loss"].backward()
    assert all(math.isfinite(value.item()) for value in parts.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pupil.parameters())
    assert not any(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        assert pupil.feature_map(images).shape == (2, 512, 14, 14)
