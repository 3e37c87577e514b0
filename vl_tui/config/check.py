"""A document against a model: pydantic's findings in the words of the person who wrote the file."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from vl_tui.config.document import ConfigError, Document, Where, printable
from vl_tui.config.quantities import shown


class Strict(BaseModel):
    """Base of every model here: no unknown key, no silent conversion, no change after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=Strict)


def check(document: Document, model: type[M]) -> M:
    """``document`` as a ``model``. Raises ``ConfigError`` about the first wrong line, and says how many follow."""
    try:
        return model.model_validate(document.content)
    except ValidationError as error:
        # What is missing stands on no line of its own, and an unknown key explains it: "hots" why "hosts" is.
        every = error.errors(include_url=False)
        found = [(details["type"] == "missing", *_finding(document, model, details)) for details in every]
    found.sort(key=lambda item: (item[0], _line_of(document, item[1])))
    _, where, words = found[0]
    more = len(found) - 1
    if more:
        words += f" ({more} more problem{'s' if more > 1 else ''} after this one.)"
    raise document.error(where, words)


def _line_of(document: Document, where: Where) -> int:
    while where and where not in document.lines:
        where = where[:-1]
    return document.lines.get(where, 0)


def _finding(document: Document, model: type[BaseModel], details: ErrorDetails) -> tuple[Where, str]:
    where = _where(document, details["loc"])
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return where, _unknown(str(where[-1]), _keys(model, details["loc"][:-1]))
    if kind == "missing":
        return where, "is missing." + _example(model, details["loc"])
    return where, _words(kind, value, context, details["msg"])


def _words(kind: str, value: Any, context: dict[str, Any], message: str) -> str:
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"{shown(value)} is not one of {context['expected']}."
    if kind == "union_tag_invalid":
        return f"kind {shown(context['tag'])} is not known: use one of {context['expected_tags']}."
    if kind == "union_tag_not_found":
        return "has no `kind`: say `kind: ssh` or `kind: local`."
    if kind == "string_type":
        quoted = isinstance(value, (int, float, bool))
        return f"must be text, is {shown(value)}." + (" Put it in quotes." if quoted else "")
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}, is {shown(value)}."
    bound = next((f"{word} {context[name]}" for name, word in _BOUNDS.items() if name in context), "")
    return f"must be {bound}, is {shown(value)}." if bound else f"{printable(message, 200)}."


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list ([a, b])",
    "list_type": "a list ([a, b])",
    "dict_type": "a map ({key: value})",
    "model_type": "a map ({key: value})",
    "model_attributes_type": "a map ({key: value})",
}
_BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def _unknown(key: str, keys: list[str]) -> str:
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown key.{guess} Known here: {', '.join(keys)}."


def _where(document: Document, loc: tuple[str | int, ...]) -> Where:
    """The place in the file of pydantic's ``loc``, which also holds the names of a union's branches."""
    at: Any = document.content
    where: list[str | int] = []
    for part in loc:
        below = _step(at, part)
        if below is not None:
            where.append(part)
            at = below[0]
    last = loc[-1] if loc else ""
    if loc and last != "[key]" and (not where or where[-1] != last):
        where.append(last)  # a key that is missing
    return tuple(where)


def _step(at: Any, part: str | int) -> tuple[Any] | None:
    """What ``at`` holds under ``part``; None where it holds no such thing."""
    if isinstance(at, dict) and part in at:
        return (at[part],)
    if isinstance(at, list) and isinstance(part, int) and part < len(at):
        return (at[part],)
    return None


def _keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys that a map at ``loc`` may have."""
    found = _model_at(model, loc)
    return [field.alias or key for key, field in found.model_fields.items()] if found else []


def _example(model: type[BaseModel], loc: tuple[str | int, ...]) -> str:
    found = _model_at(model, loc[:-1])
    field = found.model_fields.get(str(loc[-1])) if found else None
    return f" For example `{loc[-1]}: {field.examples[0]}`." if field and field.examples else ""


def _model_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> type[BaseModel] | None:
    at: type[BaseModel] | None = model
    for part in loc:
        if at is None or isinstance(part, int):
            continue
        field = at.model_fields.get(part)
        branches = _models(field.annotation) if field else _siblings(model, part)
        at = branches[0] if len(branches) == 1 else at if branches else None
    return at


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in getattr(annotation, "__args__", ()) for found in _models(arg)]


def _siblings(model: type[BaseModel], tag: str) -> list[type[BaseModel]]:
    """The union's branch with this ``kind``."""
    every = [found for field in model.model_fields.values() for found in _models(field.annotation)]
    return [found for found in every if "kind" in found.model_fields and tag in _literals(found)]


def _literals(model: type[BaseModel]) -> tuple[Any, ...]:
    return tuple(getattr(model.model_fields["kind"].annotation, "__args__", ()))


__all__ = ["ConfigError", "Strict", "check"]
