"""The projects: one folder each, and nothing else names them. ``find_projects`` walks the folders.

Folders named in the environment variable KDNB_PROJECTS, separated as in PATH, are walked too: a project of your own
need not lie in this package.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

__path__ += [folder for folder in os.environ.get("KDNB_PROJECTS", "").split(os.pathsep) if folder]


def find_projects() -> dict[str, type]:
    """ "03_voc_defeat" -> its ``Experiment``, in the order of the numbers. Imports all of them, which takes seconds."""
    kinds = {}
    for package in iter_modules(__path__):
        name = f"{__name__}.{package.name}.experiment"
        if package.ispkg and find_spec(name):
            defined = [kind for kind in vars(import_module(name)).values() if getattr(kind, "__module__", "") == name]
            kinds |= {kind.project: kind for kind in defined if hasattr(kind, "project")}
    return dict(sorted(kinds.items()))
