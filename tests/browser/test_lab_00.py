"""00 in a real browser: every control of the street changes its pictures."""


def test_every_control_changes_the_picture(lesson):
    assert lesson.changes(lambda: lesson.pick("street", index=2), least=0.05)
    assert lesson.changes(lambda: lesson.pick("light", label="evening"), least=0.05)
    assert lesson.changes(lambda: lesson.pick("LiDAR beams", label="16"))
    assert lesson.changes(lambda: lesson.slide("height, m", "ArrowRight", 20), least=0.05)
    assert lesson.changes(lambda: lesson.slide("looking down, °", "ArrowRight", 10), least=0.05)
    assert lesson.changes(lambda: lesson.slide("field of view, °", "ArrowLeft", 5), least=0.05)
    assert lesson.changes(lambda: lesson.slide("cars", "ArrowLeft", 3), least=0.001)
