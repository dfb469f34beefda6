"""kdnb: knowledge distillation for driving perception, as notebooks and a small library."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``kdnb.load_student``, which imports torch: only when somebody asks for it."""
    if name == "load_student":
        return import_module("kdnb.students").load_student
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
