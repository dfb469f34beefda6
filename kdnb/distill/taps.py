"""Taps: read the outputs of a network's submodules without touching its code."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from kdnb.errors import InputError


class Taps:
    """Context manager that keeps the outputs of submodules, by module path, while it is open.

    >>> with Taps(model, ["backbone.fpn"]) as outputs:
    ...     model(images)
    >>> outputs["backbone.fpn"]

    Raises:
        InputError: a path that names no submodule of the model.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]):
        modules = dict(model.named_modules())
        for path in paths:
            if path not in modules:
                known = ", ".join(name for name, _ in model.named_children())
                raise InputError(f"tap {path!r} is not a module of {type(model).__name__}; its children are {known}")
        self.modules = {path: modules[path] for path in paths}
        self.outputs: dict = {}

    def __enter__(self) -> dict:
        def keep(path: str):
            return lambda module, inputs, output: self.outputs.__setitem__(path, output)

        self.handles = [module.register_forward_hook(keep(path)) for path, module in self.modules.items()]
        return self.outputs

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()
