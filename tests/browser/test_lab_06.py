"""06 in a real browser: every arm can be hidden, a temperature reshapes soft labels, also those of a car of yours."""


def test_every_control_changes_the_picture(lesson, picture):
    # nothing is learned in smoke: soft labels are nearly level at every temperature, so little moves
    assert lesson.changes(lambda: lesson.slide("temperature", "ArrowRight", 20), least=0)
    assert lesson.changes(lambda: lesson.pick("car", index=1), least=0.01)
    for arm in lesson.ticks() + lesson.ticks():
        assert lesson.changes(arm.click, least=0.002)
    assert lesson.changes(lambda: lesson.upload(picture), least=0.01)
    assert "mine.png" in lesson.explorer.get_by_label("car", exact=True).locator("option").first.inner_text()
    assert lesson.changes(lambda: lesson.slide("temperature", "ArrowLeft", 20), least=0)


def test_a_broken_upload_is_told_in_the_explorer(lesson, no_picture):
    assert lesson.refuses(lambda: lesson.upload(no_picture), "notes.png") == lesson.NO_PICTURE
