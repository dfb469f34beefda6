"""01 in a real browser: pick a crop, search with a sentence of your own, upload a crop."""


def test_every_control_changes_the_picture(lesson, picture):
    assert lesson.changes(lambda: lesson.write("find", "a photo of a blue bus"), least=0.001)
    assert lesson.changes(lambda: lesson.slide("sentences", "ArrowRight", 3), least=0.0005)
    assert lesson.changes(lambda: lesson.pick("crop", index=1))
    for arm in lesson.ticks():
        assert lesson.changes(arm.click, least=0.01)
    for arm in lesson.ticks():
        assert lesson.changes(arm.click, least=0.01)
    assert lesson.changes(lambda: lesson.upload(picture), least=0.01)


def test_faults_are_told_in_the_explorer(lesson, no_picture):
    assert lesson.refuses(lambda: lesson.upload(no_picture), "notes.png") == lesson.NO_PICTURE
    said = lesson.refuses(lambda: lesson.write("find", " "), "sentence")
    assert said == "InputError: the sentence is empty, expected words such as 'a photo of a red car'"
