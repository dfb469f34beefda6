"""The one exception a user should ever read: what is wrong, where, and what was expected, in one line."""


class InputError(ValueError):
    """A file, folder, parameter or setting is not what it should be.

    The message is one line and names the file (and its line, where there is one), what was found and what was
    expected, e.g. ``Annotations/000012.xml:14: <xmax> is 'abc', expected a number``. The command line prints it
    without a traceback and exits with status 1.
    """

    def __init__(self, message: str = ""):
        # a DataLoader's worker hands its error on as a whole traceback, with the message at its end
        super().__init__(str(message).rpartition("InputError: ")[2].strip())
