"""05 in a real browser: fade the classes, tell the teacher other words for them, upload a picture."""

OTHER = "zebra; teapot; harpsichord"


def test_every_control_changes_the_picture(lesson, picture):
    assert lesson.changes(lambda: lesson.slide("classes", "ArrowLeft", 10), least=0.01)
    assert lesson.changes(lesson.ticks()[0].click, least=0.01)
    assert lesson.changes(lambda: lesson.write("sky", OTHER), least=0.001)
    reset = lesson.explorer.get_by_role("button", name="the prompts as they were")
    assert lesson.changes(reset.click, least=0.001)
    assert lesson.explorer.get_by_label("sky", exact=True).input_value() != OTHER
    assert lesson.changes(lambda: lesson.pick("frame", index=1), least=0.01)
    assert lesson.changes(lambda: lesson.upload(picture), least=0.01)


def test_faults_are_told_in_the_explorer(lesson, no_picture):
    assert lesson.refuses(lambda: lesson.upload(no_picture), "notes.png") == lesson.NO_PICTURE
    said = lesson.refuses(lambda: lesson.write("road", " ; "), "road")
    assert said.startswith("InputError: the prompt of road is empty, expected words such as '")
