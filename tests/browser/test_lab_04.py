"""04 in a real browser: its explorer, an image of your own, the cloud that turns, a video that plays."""

import pytest
from lesson import difference, pixels
from PIL import Image

PLAYER = "[...document.querySelectorAll('video')].pop()"


def test_every_control_changes_the_picture(lesson):
    # nothing is learned in smoke: all scores are about 0.1, and the threshold starts at 0.3
    assert lesson.changes(lambda: lesson.slide("threshold", "ArrowLeft", 5))
    whole = lesson.at_rest()
    assert len(lesson.ticks()) == 4  # ground truth, teacher, baseline, distilled
    for arm in lesson.ticks() + lesson.ticks():
        assert lesson.changes(arm.click, least=0.002)
    assert difference(whole, lesson.at_rest()) == 0
    assert lesson.changes(lesson.explorer.get_by_role("button", name="pseudo-LiDAR").click)
    assert lesson.changes(lambda: lesson.pick("frame", index=2), least=0.1)


def test_your_own_image_with_a_guessed_field_of_view(lesson, tmp_path):
    fov, guessed = "field of view, °", lesson.explorer.get_by_text("The calibration is guessed")
    assert not guessed.is_visible()
    mine = tmp_path / "mine.jpg"
    Image.new("RGB", (400, 160), "magenta").save(mine)
    assert lesson.changes(lambda: lesson.upload(mine), least=0.1)
    assert (abs(lesson.at_rest()[:200] - 105) < 12).mean() > 0.5  # magenta is that grey
    assert guessed.is_visible()
    assert lesson.changes(lambda: lesson.slide(fov, "ArrowLeft", 10))
    lesson.keep("own_image")
    assert lesson.changes(lambda: lesson.pick("frame", index=1), least=0.1)
    assert not guessed.is_visible()


def test_a_broken_upload_is_told_in_the_explorer(lesson, no_picture):
    assert lesson.refuses(lambda: lesson.upload(no_picture), "notes.png") == lesson.NO_PICTURE


def test_the_cloud_turns_under_the_mouse(lesson):
    plot, mouse = lesson.page.locator(".js-plotly-plot"), lesson.page.mouse
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse.move(*middle)  # its tools appear, which is a change too
    assert not lesson.changes(lambda: None, least=0, seconds=0.5, shown=plot)

    def drag():
        mouse.down()
        mouse.move(middle[0] + 150, middle[1] + 40, steps=5)
        mouse.up()

    assert lesson.changes(drag, least=0.01, shown=plot)


@pytest.fixture
def panel(lesson):
    """The output into which videos go, and out of which they come with boxes."""
    button = lesson.page.get_by_role("button", name="find objects")
    return lesson.page.locator(".jp-OutputArea-child", has=button)


def test_a_video_goes_through_the_panel_and_plays(lesson, panel):
    panel.get_by_role("button", name="find objects").click()
    panel.get_by_text("frames, written to").wait_for()
    lesson.page.wait_for_function(f"() => {PLAYER}?.readyState >= 2 && {PLAYER}.videoWidth > 0")
    video = panel.locator("video")
    first = lesson.at_rest(video)
    video.click()
    lesson.page.wait_for_function(f"() => {PLAYER}.ended")
    assert difference(first, pixels(video)) > 0.1  # the last frame is another street
    lesson.page.screenshot(path=lesson.place("panel"))


def test_a_broken_video_is_told_in_one_line_and_the_last_result_stays(lesson, panel, tmp_path):
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"junk" * 400)
    path = panel.get_by_label("or its path")
    with lesson.page.expect_file_chooser() as chooser:
        panel.locator(".widget-upload").click()
    chooser.value.set_files(junk)
    assert lesson.within(20, lambda: path.input_value().endswith("junk.mp4"))
    panel.get_by_role("button", name="find objects").click()
    told = panel.locator(".widget-html-content b", has_text="junk.mp4")
    told.wait_for()
    assert "junk.mp4: cannot be read (" in told.inner_text() and "\n" not in told.inner_text()
    assert lesson.page.evaluate(f"() => {PLAYER}.videoWidth") > 0
    assert lesson.faults() == []
