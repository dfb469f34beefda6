"""The exception that a user is meant to read: what is wrong, where, and what was expected, in one line."""

import errno
import os
import re

OS_REASONS = {
    errno.ENOENT: "does not exist, expected a file or a folder",
    errno.ENOTDIR: "lies below a file, expected a folder there",
    errno.EEXIST: "exists already, expected a new place",
    errno.EISDIR: "is a folder, expected a file",
    errno.EACCES: "may not be read or written, expected permission",
    errno.EPERM: "may not be read or written, expected permission",
    errno.EROFS: "lies on a read-only disk, expected a place that can be written",
    errno.ENOSPC: "cannot be written, the disk is full; expected room",
    errno.EDQUOT: "cannot be written, the quota is used up; expected room",
}


class InputError(ValueError):
    """An invalid file, folder, parameter or setting.

    The message is one line and names the file (and the line in it), what was found and what was expected, e.g.
    ``Annotations/000012.xml:14: <xmax> is 'abc', expected a number``. The command line prints it without a traceback
    and exits with status 1.
    """

    def __init__(self, message: str = ""):
        # a DataLoader worker passes its error on as a whole traceback that ends with the message
        own = str(message).rpartition("InputError: ")[2]
        super().__init__(" ".join(own.splitlines()).strip())  # a name in a file may hold a line break


def os_error_line(error: OSError) -> str:
    """One line for what the system refused: a target that is missing, a file, read-only, or on a full disk."""
    if error.filename is None:
        reason = OS_REASONS.get(error.errno or 0, error.strerror or str(error) or type(error).__name__)
        return reason.splitlines()[0]
    # an atomic write has a name of its own until it is complete
    name = re.sub(r"\.([^/\\]+)\.[0-9a-f]{12}\.part$", r"\1", os.fsdecode(error.filename))
    if name != os.fsdecode(error.filename) and error.errno == errno.ENOENT:
        return f"{name}: cannot be written, its folder does not exist; expected an existing folder"
    return f"{name}: {OS_REASONS.get(error.errno or 0, error.strerror or type(error).__name__)}".splitlines()[0]
