"""03 in a real browser: every control of its explorer changes the picture, and so does a picture of your own."""


def test_every_control_changes_the_picture(lesson, picture):
    assert lesson.changes(lambda: lesson.slide("threshold", "ArrowLeft", 10), least=0.001)
    assert lesson.changes(lesson.ticks()[0].click, least=0.01)
    assert lesson.changes(lambda: lesson.pick("mask level", index=1), least=0.01)
    assert lesson.changes(lambda: lesson.pick("image", index=3), least=0.01)
    for index in (3, 2):  # the same file twice
        lesson.pick("image", index=index)
        assert lesson.changes(lambda: lesson.upload(picture), least=0.01)


def test_a_broken_upload_is_told_in_the_explorer(lesson, no_picture):
    assert lesson.refuses(lambda: lesson.upload(no_picture), "notes.png") == lesson.NO_PICTURE
