import wave
from datetime import datetime
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import ImageColor

from kdnb.errors import InputError
from kdnb.viz.explore_video import VideoPanel, seen_by
from kdnb.viz.style import arm_colour
from kdnb.viz.video import clip_of_frames, detect_video, read_video, write_video


def frames(count=6, high=48, wide=64):
    """Smooth pictures, so that compression keeps them, brighter from one to the next."""
    ramp = np.linspace(0, 100, wide)[None, :, None] + np.linspace(0, 40, high)[:, None, None] + [0, 20, 40]
    return [(ramp + 12 * k).astype(np.uint8) for k in range(count)]


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4", frames(), 5)


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- files ------------------------------------------------------------------------------------------------------


def test_frames_come_back_as_they_went_in(clip):
    video = read_video(clip)
    assert (video.fps, video.count) == (5, 6)
    for _ in range(2):  # and again
        for back, sent in zip(video, frames(), strict=True):
            assert back.dtype == np.uint8 and np.abs(back.astype(int) - sent).mean() < 4


def test_browsers_play_it(clip):
    with av.open(str(clip)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    content = clip.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # contents first: it starts early


def test_odd_sides_are_made_even_by_repeating_the_last_line(tmp_path):
    sent = frames(2, 47, 63)
    (back, _) = read_video(write_video(tmp_path / "odd.mp4", sent, 5))
    assert back.shape == (48, 64, 3) and np.abs(back[:47, :63].astype(int) - sent[0]).mean() < 4
    assert np.abs(back[47].astype(int) - back[46]).mean() < 4


@pytest.mark.parametrize("fps", [2, 12.5, 25, 30000 / 1001])
def test_the_speed_is_kept(tmp_path, fps):
    assert read_video(write_video(tmp_path / "a.mp4", frames(3), fps)).fps == pytest.approx(fps, rel=1e-6)


@pytest.mark.parametrize(
    ("stride", "most", "kept"), [(2, None, [0, 2, 4]), (4, None, [0, 4]), (1, 2, [0, 1]), (3, 99, [0, 3])]
)
def test_fewer_frames_at_the_same_speed(clip, stride, most, kept):
    video = read_video(clip, stride, most)
    assert (video.count, video.fps) == (len(kept), 5 / stride)
    means = [frame.mean() for frame in video]
    assert np.round((np.array(means) - frames()[0].mean()) / 12).tolist() == kept


@pytest.mark.parametrize(("kind", "codec", "count"), [("matroska", "libx264", 10), ("h264", "libx264", 0)])
def test_files_without_a_count_are_read_too(tmp_path, kind, codec, count):
    with av.open(str(tmp_path / "a"), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in frames(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    video = read_video(tmp_path / "a")
    assert len(list(video)) == 10 and video.count == count and video.fps == 25
    assert read_video(tmp_path / "a", most=4).count == 4


def test_a_telephone_held_upright(clip):
    """The head of such a file says how to turn the picture: patched here as ISO 14496-12 has it, clockwise."""
    content = bytearray(clip.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    rows = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in rows)
    clip.write_bytes(content)
    turned = next(iter(read_video(clip)))
    assert turned.shape == (64, 48, 3) and np.abs(turned.astype(int) - np.rot90(frames()[0], -1)).mean() < 4


def test_what_is_no_video_is_told_in_one_line(tmp_path):
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 500)
    (tmp_path / "empty.mp4").touch()
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    for name in ("junk.mp4", "empty.mp4", "sound.wav", "missing.mp4", "."):
        with pytest.raises(InputError, match="expected a video") as caught:
            read_video(tmp_path / name)
        assert str(tmp_path / name) in one_line(caught)
    with pytest.raises(InputError, match="stride=0"):
        read_video(tmp_path / "junk.mp4", 0)


def test_a_file_cut_short_gives_its_whole_frames_or_says_so(clip):
    content = clip.read_bytes()
    clip.write_bytes(content[: content.index(b"mdat") + 40])
    with pytest.raises(InputError, match="clip.mp4: .*expected a video") as caught:
        list(read_video(clip))
    one_line(caught)


@pytest.mark.parametrize(
    ("name", "sent", "fps", "said"),
    [
        ("a.mp4", [], 5, "no frames"),
        ("a.avi", frames(1), 5, "ends in .mp4"),
        ("a.mp4", frames(1), 0, "fps is 0"),
        (
            "a.mp4",
            [frames(1)[0], frames(1, 48, 32)[0]],
            5,
            r"frame 1 is uint8 \(48, 32, 3\), expected uint8 \(48, 64, 3\)",
        ),
        ("a.mp4", [frames(1)[0] / 255], 5, "frame 0 is float64"),
        ("a.mp4", [frames(1)[0][..., 0]], 5, "frame 0"),
        ("no/a.mp4", frames(1), 5, "cannot be written"),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, name, sent, fps, said):
    with pytest.raises(InputError, match=said) as caught:
        write_video(tmp_path / name, sent, fps)
    one_line(caught)
    assert list(tmp_path.iterdir()) == []


# --- a detector on it -------------------------------------------------------------------------------------------


def test_frame_by_frame_with_progress(clip, tmp_path):
    log = []
    target = detect_video(
        clip,
        tmp_path / "out.mp4",
        lambda frame: log.append("answer") or frame.mean(),
        lambda frame, mean: log.append("draw") or np.full((20, 30, 3), round(mean), np.uint8),
        lambda done, total: log.append((done, total)),
        stride=2,
    )
    assert log == [step for k in (1, 2, 3) for step in ("answer", "draw", (k, 3))]  # never two frames at a time
    video = read_video(target)
    assert video.fps == 2.5
    np.testing.assert_allclose([f.mean() for f in video], [f.mean() for f in frames()[::2]], atol=3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk"), ValueError("model")])
def test_a_killed_run_leaves_the_old_result_and_no_rubbish(clip, tmp_path, error):
    target, asked = tmp_path / "out.mp4", []
    target.write_bytes(b"the old one")

    def answer(frame):
        asked.append(frame)
        if len(asked) == 4:
            raise error

    with pytest.raises((KeyboardInterrupt, OSError, ValueError)):
        detect_video(clip, target, answer, lambda frame, found: frame)
    assert target.read_bytes() == b"the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


def test_a_video_may_be_replaced_by_its_own_result(clip):
    detect_video(clip, clip, lambda frame: None, lambda frame, found: 255 - frame)
    assert np.abs(next(iter(read_video(clip))).astype(int) - (255 - frames()[0])).mean() < 4


def test_a_clip_of_frames_of_several_sizes(tmp_path):
    street = [SimpleNamespace(image=lambda f=f: f) for f in (frames(1)[0], frames(1, 96, 100)[0], frames(1, 20, 64)[0])]
    video = read_video(clip_of_frames(tmp_path / "street.mp4", street))
    assert video.fps == 2 and [frame.shape for frame in video] == [(48, 64, 3)] * 3


def ask(arm, image, calibration):
    assert image.shape[1] / 2 / calibration.P2[0, 0] == pytest.approx(np.tan(np.radians(81) / 2))
    return {
        "boxes": np.array([[12.0, 0, -0.5, 4, 1.8, 1.5, 0], [20, 5, -0.5, 4, 1.8, 1.5, 0]]),
        "depth": None,
        "scores": np.array([0.9, 0.2]),
        "labels": np.zeros(2, int),
        "points": np.ones((5, 4)),
    }


def test_large_frames_are_shrunk_and_boxes_drawn_above_the_threshold_only():
    frame = np.full((600, 2000, 3), 128, np.uint8)
    pictures = []
    for threshold in (0.1, 0.5, 0.95):
        answer, draw = seen_by(ask, "distilled", threshold=threshold)
        found = answer(frame)
        pictures.append(draw(frame, found))
    assert found["image"].shape == (373, 1242, 3) and pictures[0].shape == (249, 828 + 6 + 199, 3)
    counts = [(p == ImageColor.getrgb(arm_colour("distilled"))).all(-1).sum() for p in pictures]
    assert counts[0] > counts[1] > counts[2] == 0


# --- the panel --------------------------------------------------------------------------------------------------


def upload(panel, name, content):
    panel.upload.value = (
        {"name": name, "content": content, "size": len(content), "type": "video/mp4", "last_modified": datetime.now()},
    )


def test_the_button_gives_a_video_to_watch(clip, tmp_path):
    panel = VideoPanel(ask, tmp_path / "videos", clip)
    panel.most.value = 4
    panel.start.click()
    result = tmp_path / "videos" / "clip_distilled.mp4"
    assert panel.message.value == "" and bytes(panel.screen.value) == result.read_bytes()
    assert panel.bar.value == panel.bar.max == 4 and panel.state.value == f"4 of 4 frames, written to {result}"
    assert panel.screen.layout.display == "" and not panel.start.disabled


def test_an_upload_is_kept_and_what_is_no_video_loses_nothing(clip, tmp_path):
    panel = VideoPanel(ask, tmp_path / "videos")
    panel.start.click()
    assert "no video, expected an upload" in panel.message.value
    upload(panel, "C:\\mine.mp4", clip.read_bytes())
    panel.start.click()
    before = bytes(panel.screen.value)
    assert before and panel.path.value == str(tmp_path / "videos" / "mine.mp4") and panel.message.value == ""
    upload(panel, "notes.mp4", b"hello")
    panel.start.click()
    assert "notes.mp4: cannot be read" in panel.message.value and "\n" not in panel.message.value
    assert bytes(panel.screen.value) == before and not panel.start.disabled
    panel.path.value = str(clip)
    panel.start.click()
    assert panel.message.value == ""


def test_an_arm_that_fails_says_so(clip, tmp_path):
    def fails(arm, image, calibration):
        raise ValueError(f"no {arm}")

    panel = VideoPanel(fails, tmp_path, clip)
    panel.start.click()
    assert "ValueError: no distilled" in panel.message.value and not panel.start.disabled
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
