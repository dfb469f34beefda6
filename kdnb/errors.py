"""The exception that a user is meant to read: what is wrong, where, and what was expected, in one line."""


class InputError(ValueError):
    """An invalid file, folder, parameter or setting.

    The message is one line and names the file (and the line in it), what was found and what was expected, e.g.
    ``Annotations/000012.xml:14: <xmax> is 'abc', expected a number``. The command line prints it without a traceback
    and exits with status 1.
    """

    def __init__(self, message: str = ""):
        # a DataLoader worker passes its error on as a whole traceback that ends with the message
        super().__init__(str(message).rpartition("InputError: ")[2].strip())
