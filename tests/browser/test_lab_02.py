"""02 in a real browser: type a command, look at scores and attention, upload a picture."""


def test_every_control_changes_the_picture(lesson, picture):
    assert lesson.changes(lambda: lesson.write("command", "stop behind the blue car on the left"), least=0.001)
    assert lesson.changes(lambda: lesson.slide("candidates", "ArrowRight", 3), least=0.0005)
    assert lesson.changes(lambda: lesson.pick("show", label="attention"))
    assert lesson.changes(lambda: lesson.pick("image", index=1), least=0.01)
    assert lesson.changes(lesson.ticks()[0].click, least=0.01)
    assert lesson.changes(lambda: lesson.upload(picture), least=0.01)


def test_faults_are_told_in_the_explorer(lesson, no_picture):
    assert lesson.refuses(lambda: lesson.upload(no_picture), "notes.png") == lesson.NO_PICTURE
    said = lesson.refuses(lambda: lesson.write("command", "  "), "command")
    assert said == "InputError: the command is empty, expected words such as 'park behind the white van'"
