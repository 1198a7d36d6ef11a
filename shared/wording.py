"""What a value must be, in words, read off the type that refused it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from typing import Any

from msgspec import inspect

_OR_NULL = ", or null"
_WHERE = re.compile(r"(?P<what>.*) - at `(?:key in )?\$(?P<path>.*)`$", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>\w+)|\[(?P<index>\d*|\.\.\.)\]")
_OBJECT = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<name>.*)`$", re.DOTALL)
_THEIRS = re.compile(r"Expected |Invalid |Object |Array |Integer |Number |Out of range|Not enough|Value ")
"""How what msgspec itself says begins; anything else was said by a type of ours, in words."""

_GOT = re.compile(r"got `(?P<kind>\w+)`$")
SHOWN, MOST_SHOWN = 100, 10
"""Characters of a name that a refusal repeats, and names."""

_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a decimal number",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}


def explained(type_: Any, refusal: str) -> tuple[str, str]:
    """Where below a value of `type_` msgspec found what it refused, and what belongs there.

    Args:
        type_: The type the value was decoded as.
        refusal: The text of the `ValidationError`.

    Returns:
        The path from the value (`[0].metric`, empty for the value itself), and a message for people.
    """
    match = _WHERE.match(refusal)
    path, what = (match["path"], match["what"]) if match else ("", refusal)
    wanted = _at(inspect.type_info(type_), path)
    if match := _OBJECT.match(what):
        known = _fields(wanted)
        missing = match["what"] == "missing required"
        return f"{path}.{match['name'][:80]}", "required" if missing else unknown("field", known)
    if not _THEIRS.match(what):
        return path, what
    got = _GOT.search(what)
    instead = f", not {_KINDS[got['kind']]}" if got and got["kind"] in _KINDS else ""
    return path, f"must be {described(wanted)}{instead}"


def of_text(message: str) -> str:
    """What `explained` says of a value that came as text, in a query or a form, where nobody can say null."""
    return message.replace(_OR_NULL, "")


def unknown(noun: str, known: Iterable[str]) -> str:
    """The message about a name that nobody knows, with those that are known."""
    names = ", ".join(known)
    return f"unknown {noun}; known are {names}" if names else f"unknown {noun}; this call takes none"


def quoted(names: Collection[str]) -> str:
    """Names that came with a request, for its refusal: the first few of many, and of long ones the beginning."""
    shown = [repr(name[:SHOWN]) for name in itertools.islice(names, MOST_SHOWN)]
    return ", ".join(shown) + (f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else "")


def described(wanted: inspect.Type) -> str:
    """What a value of a type, looked into by msgspec, may be: `a whole number from 1 to 256`, `fp16, fp32 or int8`."""
    match wanted:
        case inspect.Metadata():
            return _told(wanted) or described(wanted.type)
        case inspect.UnionType():
            options = [option for option in wanted.types if not isinstance(option, inspect.NoneType)]
            told = " or ".join(dict.fromkeys(map(described, options)))
            return told + (_OR_NULL if len(options) < len(wanted.types) else "")
        case inspect.LiteralType():
            return _choice([str(value) for value in wanted.values])
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(wanted, inspect.IntType) else "a number"
            return noun + _range(low=wanted.ge, above=wanted.gt, high=wanted.le, below=wanted.lt)
        case inspect.StrType():
            return "text" + _length(wanted.min_length, wanted.max_length, "characters")
        case inspect.CollectionType():
            items = "" if isinstance(wanted.item_type, inspect.StructType) else f", each {described(wanted.item_type)}"
            return "a list" + _length(wanted.min_length, wanted.max_length, "values") + items
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case inspect.StructType():
            return "an object"
        case inspect.DictType():
            return "an object" + _length(wanted.min_length, wanted.max_length, "fields")
    return "another value"


def _told(wanted: inspect.Metadata) -> str:
    """The rule in words, or the description, of a type whose rule is a pattern, which is nothing to show."""
    if not (isinstance(wanted.type, inspect.StrType) and wanted.type.pattern):
        return ""
    if rule := (wanted.extra or {}).get("rule"):
        return str(rule)
    told = str((wanted.extra_json_schema or {}).get("description", "")).replace("`", "").rstrip(".")
    return told[:1].lower() + told[1:]


def _choice(names: list[str]) -> str:
    joined = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"one of {joined}" if len(names) > 2 else joined


def _range(*, low: float | None, above: float | None, high: float | None, below: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low:.12g} to {high:.12g}"
    bounds = (("at least", low), ("above", above), ("at most", high), ("below", below))
    told = " and ".join(f"{name} {bound:.12g}" for name, bound in bounds if bound is not None)
    return f", {told}" if told else ""


def _length(low: int | None, high: int | None, things: str) -> str:
    if low and high:
        return f" of {low} to {high} {things}"
    if low or high:
        return f" of at least {low} {things}" if low else f" of at most {high} {things}"
    return ""


def _at(wanted: inspect.Type, path: str) -> inspect.Type:
    """The type that `path` leads to; where it leads nowhere, the last one on the way."""
    for step in _STEP.finditer(path):
        found = _below(wanted, step["name"], step["index"])
        if found is None:
            return wanted
        wanted = found
    return wanted


def _below(wanted: inspect.Type, name: str | None, index: str | None) -> inspect.Type | None:
    match wanted:
        case inspect.Metadata():
            return _below(wanted.type, name, index)
        case inspect.UnionType() if tags := _tags(wanted, name):
            return inspect.LiteralType(tags)
        case inspect.UnionType():
            return next((found for option in wanted.types if (found := _below(option, name, index))), None)
        case inspect.StructType():
            return next((field.type for field in wanted.fields if field.encode_name == name), None)
        case inspect.CollectionType() if name is None:
            return wanted.item_type
        case inspect.TupleType() if index and index.isdigit():
            return wanted.item_types[int(index)]
        case inspect.DictType():
            return wanted.value_type
    return None


def _tags(wanted: inspect.UnionType, name: str | None) -> tuple[str | int, ...]:
    """What the field that tells objects of several types apart may say, where that is its name."""
    structs = [option for option in wanted.types if isinstance(option, inspect.StructType)]
    return tuple(each.tag for each in structs if each.tag is not None and each.tag_field == name)


def _fields(wanted: inspect.Type) -> list[str]:
    match wanted:
        case inspect.Metadata():
            return _fields(wanted.type)
        case inspect.UnionType():
            return [name for option in wanted.types for name in _fields(option)]
        case inspect.StructType():
            return [field.encode_name for field in wanted.fields]
    return []
