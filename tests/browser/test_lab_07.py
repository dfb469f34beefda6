"""07 in a real browser: all students on one frame, every control changes the picture; the drive is a video."""

from PIL import Image

COMMAND = "stop behind the red truck"
DRIVE = "[...document.querySelectorAll('video')].pop()"


def test_every_control_changes_the_picture(lesson, tmp_path):
    assert lesson.changes(lambda: lesson.slide("threshold", "ArrowLeft", 6), least=0.0005)
    assert lesson.changes(lambda: lesson.write("command", COMMAND), least=0.0005)
    for layer in lesson.ticks()[1:]:  # nothing is learned in smoke: the first, 03's objects, has none above 0.06
        assert lesson.changes(layer.click, least=0.0005)
    assert lesson.changes(lambda: lesson.pick("which car", label="no car"), least=0.001)
    assert lesson.changes(lambda: lesson.pick("frame", index=1), least=0.1)
    assert lesson.explorer.get_by_label("command", exact=True).input_value() != COMMAND  # every street has its own
    mine = tmp_path / "mine.png"
    Image.effect_noise((300, 200), 90).convert("RGB").save(mine)
    assert lesson.changes(lambda: lesson.upload(mine), least=0.1)
    assert lesson.explorer.get_by_text("No network here has seen a photograph").is_visible()


def test_faults_are_told_in_the_explorer(lesson, no_picture):
    assert lesson.refuses(lambda: lesson.upload(no_picture), "notes.png") == lesson.NO_PICTURE
    said = lesson.refuses(lambda: lesson.write("command", "  "), "command")
    assert said == "InputError: the command is empty, expected words such as 'stop behind the red car'"


def test_the_drive_can_be_watched(lesson):
    lesson.page.wait_for_function(f"() => {DRIVE}?.readyState >= 1")
    assert lesson.page.evaluate(f"() => {DRIVE}.videoWidth") > 600
