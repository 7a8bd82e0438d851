"""A part of CEL, for `x-kubernetes-validations`: comparisons, sums, `has`, `size`, `matches`, `!`, `&&`, `||`, `? :`.

Pure.
"""

from __future__ import annotations

import ast
import logging
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

logger = logging.getLogger(__name__)

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


class UnsupportedRuleError(ValueError):
    """The rule is beyond this subset; a real API server would evaluate it."""


def broken_rules(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """The messages of the schema's rules that `value` breaks.

    Rules about the old object, and those beyond the subset, are taken as kept.
    """
    for rule in schema.get("x-kubernetes-validations", ()):
        text = rule["rule"]
        if "oldSelf" in text:
            continue
        try:
            kept = evaluate(text, value)
        except UnsupportedRuleError as error:
            logger.warning("not evaluated: %s", error)
            continue
        if not kept:
            yield rule.get("message") or f"failed rule: {text}"


def evaluate(text: str, value: Any) -> bool:
    """Whether the rule holds for `self` = `value`; UnsupportedRuleError beyond the subset."""
    try:
        return bool(_value(ast.parse(_as_python(text).strip(), mode="eval").body, value))
    except (SyntaxError, KeyError, TypeError) as error:
        raise UnsupportedRuleError(f"CEL rule {text!r} is beyond the stand-in's subset ({error!r})") from error


def _as_python(text: str) -> str:
    """The rule in Python's words; the strings in it must not hold CEL's signs."""
    mark, colon = _at_top(text, "?"), _at_top(text, ":")
    if mark is not None and colon is not None:
        test, yes, no = (_as_python(part) for part in (text[:mark], text[mark + 1 : colon], text[colon + 1 :]))
        return f"(({yes}) if ({test}) else ({no}))"
    translated, start = "", 0
    for first, last in _groups(text):
        translated += f"{text[start:first]}({_as_python(text[first + 1 : last])})"
        start = last + 1
    translated += text[start:]
    translated = translated.replace("&&", " and ").replace("||", " or ")
    translated = re.sub(r"!(?!=)", " not ", translated)
    return re.sub(r"\btrue\b", "True", re.sub(r"\bfalse\b", "False", translated)).strip()


def _at_top(text: str, sign: str) -> int | None:
    """Where `sign` stands outside all parentheses."""
    inside = [range(first, last) for first, last in _groups(text)]
    return next((i for i, c in enumerate(text) if c == sign and not any(i in group for group in inside)), None)


def _groups(text: str) -> Iterator[tuple[int, int]]:
    """First and last position of each outermost pair of parentheses."""
    depth, first = 0, 0
    for position, character in enumerate(text):
        if character == "(":
            first = position if depth == 0 else first
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                yield first, position


def _value(node: ast.expr, scope: Any) -> Any:  # noqa: C901 - one branch for each form
    match node:
        case ast.Constant(value=constant):
            return constant
        case ast.Name(id="self"):
            return scope
        case ast.Attribute(value=inner, attr=attribute):
            return _value(inner, scope)[attribute]
        case ast.Call(func=ast.Name(id="has"), args=[ast.Attribute(value=inner, attr=attribute)]):
            return attribute in _value(inner, scope)
        case ast.Call(func=ast.Name(id="size"), args=[inner]) | ast.Call(func=ast.Attribute(value=inner, attr="size")):
            return len(_value(inner, scope))
        case ast.Call(func=ast.Attribute(value=inner, attr="matches"), args=[pattern]):
            return re.search(_value(pattern, scope), _value(inner, scope)) is not None
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_value(part, scope) for part in parts)
        case ast.BoolOp(op=ast.Or(), values=parts):
            return any(_value(part, scope) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return not _value(inner, scope)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, scope)
        case ast.List(elts=items):
            return [_value(item, scope) for item in items]
        case ast.IfExp(test=test, body=yes, orelse=no):
            return _value(yes if _value(test, scope) else no, scope)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_value(left, scope), _value(right, scope))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return _COMPARE[type(op)](_value(left, scope), _value(right, scope))
    raise UnsupportedRuleError(f"CEL form {ast.unparse(node)!r} is beyond the stand-in's subset")
