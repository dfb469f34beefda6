"""Taps: read the outputs of a network's submodules without touching its code."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kdnb.errors import InputError

Pass = tuple[str, bool, bool]  # a path, whether the model trains, whether gradients are on
# of each model: the taps that nothing wrote over in an earlier pass
UNTOUCHED: WeakKeyDictionary[nn.Module, set[Pass]] = WeakKeyDictionary()


@dataclass
class Taken:
    """An output as a module gave it, its tensors with their versions, and a copy where a later layer may write."""

    kind: Pass
    output: Any
    tensors: list[tuple[Tensor, float]]
    copy: Any = None

    def is_untouched(self) -> bool:
        """Whether the output still holds the same tensors, and no operation has written to them since."""
        now = list(tensors_of(self.output))
        return len(now) == len(self.tensors) and all(
            tensor is given and version_of(given) == version
            for tensor, (given, version) in zip(now, self.tensors, strict=True)
        )


class Taps(Mapping[str, Any]):
    """Context manager that keeps the outputs of submodules, by module path, while it is open.

    >>> with Taps(model, ["backbone.fpn"]) as outputs:
    ...     model(images)
    >>> outputs["backbone.fpn"]

    An output is what the module gave, also where a later layer writes over it, as an in-place ReLU or ``out +=
    identity`` does after ``layer1.0.bn2`` of torchvision's ResNets. A tap keeps the tensor itself, which costs nothing,
    if nothing wrote to it: its version (``Tensor._version``), which each in-place operation raises, is the same when it
    is read. The first pass through a model also takes a copy, to fall back on; from then on only the taps that were
    written over copy, at each pass. The copy is a node of the graph, so a term's gradient reaches the module either
    way. Tensors of inference mode have no version and are always copied. Looked at are tensors, also those in dicts,
    lists and tuples.

    Raises:
        InputError: a path that names no submodule of the model; on reading, an output that was written over in this
            pass and not in the first.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]):
        paths, modules = list(paths), dict(model.named_modules())
        for path in paths:
            if path not in modules:
                known = ", ".join(name for name, _ in model.named_children())
                raise InputError(f"tap {path!r} is not a module of {type(model).__name__}; its children are {known}")
        self.model = model
        self.modules = {path: modules[path] for path in paths}
        self.taken: dict[str, Taken] = {}

    def __enter__(self) -> Taps:
        def keep(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                self._take(path, output)

            # a compiled network must not trace it; where torch's compiler is not loaded, nothing is compiled
            return cast(Any, torch.compiler.disable)(hook) if "torch._dynamo" in sys.modules else hook

        self.untouched = UNTOUCHED.setdefault(self.model, set())
        self.handles = [module.register_forward_hook(keep(path)) for path, module in self.modules.items()]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()
        for taken in self.taken.values():
            if taken.is_untouched():
                self.untouched.add(taken.kind)
                taken.copy = None

    def __getitem__(self, path: str) -> Any:
        taken = self.taken[path]
        if taken.is_untouched():
            return taken.output
        if taken.copy is None:
            self.untouched.discard(taken.kind)
            raise InputError(
                f"tap {path!r}: a later layer of {type(self.model).__name__} wrote over its output in this pass, "
                "not in earlier ones: expected in-place operations in all passes or in none"
            )
        return taken.copy

    def __iter__(self) -> Iterator[str]:
        return iter(self.taken)

    def __len__(self) -> int:
        return len(self.taken)

    def _take(self, path: str, output: Any) -> None:
        kind = (path, self.model.training, torch.is_grad_enabled())
        tensors = [(tensor, version_of(tensor)) for tensor in tensors_of(output)]
        needed = kind not in self.untouched or any(tensor.is_inference() for tensor, _ in tensors)
        self.taken[path] = Taken(kind, output, tensors, copied(output) if needed else None)


def version_of(tensor: Tensor) -> float:
    """How often the tensor was written to in place; NaN, which is never the same, where torch does not count it."""
    return float("nan") if tensor.is_inference() else tensor._version


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists and tuples."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_of(each)


def copied(value: Any) -> Any:
    """The value with each of its tensors cloned within the graph, and each dict, list and tuple of its own kind."""
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, dict):
        twin = copy.copy(value)
        for key, each in value.items():
            twin[key] = copied(each)
        return twin
    if isinstance(value, tuple):
        parts = [copied(each) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return [copied(each) for each in value] if isinstance(value, list) else value
