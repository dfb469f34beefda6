"""What a user chooses: the settings of a project (a YAML file with three profiles) and the parameters of a notebook.

A misspelt name or a wrong type is one error line, before anything runs.
"""

import difflib
import os
import re
import types
from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic
import yaml

from kdnb.errors import InputError

PROFILES = ("smoke", "lite", "photo", "full")
# what PyYAML raises: on 2011-99-26 a ValueError, on "!!bool x" a KeyError
NOT_YAML = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
Model = TypeVar("Model", bound="Settings")

# --- settings ---------------------------------------------------------------------------------------------------


class Settings(pydantic.BaseModel):
    """Base of every project's settings: no unknown keys, no changes after reading."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_bool_as_number(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        # pydantic reads `steps: yes` as steps = 1
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("a number, not a yes/no value")
        return value


def settings_text(model: type[Settings]) -> str:
    """The text of the ``settings.yaml`` beside the module of a project's settings.

    Raises:
        InputError: there is no such file.
    """
    package = model.__module__.rpartition(".")[0]
    source = resources.files(package) / "settings.yaml"
    if not source.is_file():
        raise InputError(f"{settings_file(model)} does not exist; expected the settings of a project")
    return source.read_text(encoding="utf-8")


def settings_file(model: type[Settings]) -> str:
    """ "voc_defeat/settings.yaml", for messages."""
    return f"{model.__module__.split('.')[-2]}/settings.yaml"


def load_settings(model: type[Model], profile: str, /, **overrides: Any) -> Model:
    """One profile of a project's ``settings.yaml``, as its settings class ``model``.

    The file has the blocks ``smoke``, ``lite`` and ``full``, and ``photo`` where photographs and pretrained networks
    are prepared; an optional block ``common`` lies beneath each of them, and ``overrides`` lie above.

    Raises:
        InputError: an unknown profile, an unknown key (naming the nearest known one), a value of the wrong type.
    """
    if profile not in PROFILES:
        raise InputError(f"unknown profile {profile!r}; expected one of {', '.join(PROFILES)}")
    name = settings_file(model)
    try:
        blocks = yaml.safe_load(settings_text(model)) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, problem = mark.line + 1 if mark else "?", getattr(error, "problem", None) or "syntax error"
        raise InputError(f"{name}:{line}: not readable as YAML: {problem}") from None
    if not isinstance(blocks, dict) or not isinstance(blocks.get(profile), dict):
        there = [one for one in PROFILES if isinstance(blocks, dict) and isinstance(blocks.get(one), dict)]
        raise InputError(f"{name} has no block {profile!r}; expected one of its profiles {', '.join(there)}")
    values = _merge(_merge(blocks.get("common") or {}, blocks[profile]), overrides)
    return validate_settings(model, values, f"{name} [{profile}]")


def validate_settings(model: type[Model], values: dict[str, Any], where: object) -> Model:
    """A dict as ``model``; raises InputError that names ``where`` the values are from."""
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError(_explain(error.errors()[0], model, where)) from None


def parse_setting(model: type[Settings], name: str, text: str) -> Any:
    """The value of ``--set NAME=VALUE``: as it stands where the setting is a text, such as a path, since YAML would cut
    "runs #2" and turn 2011_09_26 into a number; else what it is in YAML. "null" is None where a setting may be that.

    Raises InputError for a value that is not readable as YAML.
    """
    kind = model.model_fields[name].annotation if name in model.model_fields else None
    if _takes_text(kind):
        return None if text in NOTHING and type(None) in get_args(kind) else text
    try:
        return yaml.safe_load(text)
    except NOT_YAML as error:
        reason = getattr(error, "problem", None) or "syntax error"
        raise InputError(f"--set '{name}={text}': not readable as YAML: {reason}") from None


def _takes_text(kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        return all(_takes_text(one) for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        return all(isinstance(one, str) for one in get_args(kind))
    return kind in (str, Path)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``; blocks inside blocks are merged too."""
    merged = dict(below)
    for key, value in above.items():
        both_blocks = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_blocks else value
    return merged


def _explain(problem: Any, model: type[pydantic.BaseModel], where: object) -> str:
    """One line for one pydantic error: the setting, its value, what was expected."""
    setting = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, problem["loc"][:-1])
        return f"unknown setting {setting!r} in {where}{did_you_mean(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"setting {setting!r} is missing in {where}"
    expected = re.sub(r"^(Input should be|Value error,) ", "", problem["msg"])
    return f"setting {setting!r} in {where} is {problem['input']!r}, expected {expected}"


def _known_keys(model: type[pydantic.BaseModel], parents: Sequence[str | int]) -> list[str]:
    for parent in parents:
        field = model.model_fields.get(parent) if isinstance(parent, str) else None
        kind = field.annotation if field else None
        if not isinstance(kind, type) or not issubclass(kind, pydantic.BaseModel):
            return []
        model = kind
    return list(model.model_fields)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """'; did you mean ...?' with the nearest known word, or the list of known words if none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; expected one of {', '.join(sorted(known))}" if known else ""


# --- parameters -------------------------------------------------------------------------------------------------

NOTHING = ("", "null", "None", "~")  # as a value on the command line
CHECKS = {  # parameter: what it must be
    "PROFILE": (lambda v: v in PROFILES, "one of 'smoke', 'lite', 'photo', 'full'"),
    "SEED": (lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0, "a whole number (int) >= 0"),
    "DATA": (lambda v: v is None or isinstance(v, (str, Path)), "None or a path (str)"),
    "RESULTS": (lambda v: isinstance(v, (str, Path)) and str(v) != "", "a folder (str)"),
    "ABLATIONS": (lambda v: isinstance(v, bool), "True or False (bool)"),
}


def is_data_root(name: str) -> bool:
    """Whether a notebook's parameter is the root of a data set: DATA, or any name that ends so."""
    return name.endswith("DATA")


def is_path(name: str) -> bool:
    """Whether a notebook's parameter is a path: RESULTS, or the root of a data set."""
    return name == "RESULTS" or is_data_root(name)


def is_checked(name: str) -> bool:
    """Whether ``check_parameters`` knows a parameter."""
    return name in CHECKS or is_data_root(name)


def check_parameters(**parameters: Any) -> None:
    """Check the papermill parameters of a notebook; papermill itself accepts any type.

    Knows PROFILE (smoke, lite, photo, full), SEED (whole number >= 0), RESULTS (a path), ABLATIONS (True or False) and
    DATA, or any name that ends so (None or an existing path). Raises InputError naming the parameter, its value and
    what was expected.
    """
    for name, value in parameters.items():
        if not is_checked(name):
            raise InputError(f"unknown parameter {name!r}{did_you_mean(name, CHECKS)}")
        is_right, expected = CHECKS["DATA" if is_data_root(name) else name]
        if not is_right(value):
            raise InputError(f"parameter {name} is {value!r} ({type(value).__name__}), expected {expected}")
        if is_data_root(name) and value is not None and not os.path.exists(value):
            raise InputError(
                f"parameter {name} is {str(value)!r}, which does not exist; expected the root of a data set"
            )


# --- the course's folder ----------------------------------------------------------------------------------------


def course_folder(part: str, package: str) -> Path | None:
    """The folder ``part`` ("notebooks") of the course: in the current folder, its parent, or beside the package.

    A folder is the course's if its pyproject.toml is kdnb's: a user's own ``notebooks/`` is not taken for it. None if
    there is none.

    Args:
        package: path of a file of the package.
    """
    for root in (Path.cwd(), Path.cwd().parent, Path(package).resolve().parents[1]):
        if _is_course(root) and (root / part).is_dir():
            return (root / part).resolve()
    return None


def _is_course(root: Path) -> bool:
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return re.search(r"""^name\s*=\s*["']kdnb["']""", text, re.MULTILINE) is not None
