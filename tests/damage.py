"""Damaged files for property tests: noise, truncations, single bytes and swapped fields; and how to read them."""

import json
import time
from typing import Any

from hypothesis import strategies as st

from kdnb.errors import InputError

FIELDS = ("nan", "inf", "-1e308", "1e400", "9" * 400, "", "null", "-1", "0", "1_0", "x", "٣", "0x10", "1e-320", "1e6")
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 2000),
        st.sampled_from([10**400, -(10**18), float("nan"), float("inf"), -1e308, 1e-320, "", "12", "\ud800", "a\nb"]),
        st.floats(),
        st.text(max_size=5),
    ),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def quietly(call):
    """The result, or None after one line; in less than two seconds."""
    start = time.perf_counter()
    try:
        return call()
    except InputError as error:
        assert "\n" not in str(error) and str(error)
        return None
    finally:
        assert time.perf_counter() - start < 2


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """Noise, or ``content`` truncated, with other bytes here and there, or another field between its blanks."""
    places = st.tuples(st.integers(0, max(len(content) - 1, 0)), st.integers(0, 255))
    return st.one_of(
        st.binary(max_size=300),
        st.integers(0, len(content)).map(lambda end: content[:end]),
        st.lists(places, min_size=1, max_size=8).map(lambda changes: _with_bytes(content, changes)),
        st.tuples(st.integers(0, 10_000), st.sampled_from(FIELDS)).map(lambda swap: _with_field(content, *swap)),
    )


def damaged_json(content: Any) -> st.SearchStrategy[bytes]:
    """``damaged`` of a JSON value as text, or the value with another in one place, a key of another name included."""
    text = json.dumps(content).encode()
    swaps = st.tuples(st.integers(0, 10_000), VALUES)
    return damaged(text) | swaps.map(lambda swap: _with_value(text, *swap))


def _with_bytes(content, changes):
    changed = bytearray(content)
    for place, byte in changes:
        if changed:
            changed[place] = byte
    return bytes(changed)


def _with_field(content, number, field):
    fields = content.split(b" ")
    fields[number % len(fields)] = field.encode()
    return b" ".join(fields)


def _with_value(text, number, value):
    content = json.loads(text)
    places = list(_places(content))
    holder, key = places[number % len(places)]
    if isinstance(value, str) and isinstance(holder, dict) and number % 3 == 0:
        holder[value] = holder.pop(key)
    else:
        holder[key] = value
    return json.dumps(content).encode()


def _places(value):
    """(holder, key) of every value in a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])
