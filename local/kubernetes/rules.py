"""A part of CEL, for `x-kubernetes-validations`: comparisons, sums, `has`, `size`, `matches`, `!`, `&&`, `||`, `? :`.

Pure.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

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
    """The messages of the schema's rules that `value` breaks; rules about the old object are not evaluated."""
    for rule in schema.get("x-kubernetes-validations", ()):
        text = rule["rule"]
        if "oldSelf" not in text and not evaluate(text, value):
            yield rule.get("message") or f"failed rule: {text}"


def evaluate(text: str, value: Any) -> bool:
    """Whether the rule holds for `self` = `value`; UnsupportedRuleError beyond the subset."""
    try:
        return bool(_value(ast.parse(_as_python(text), mode="eval").body, value))
    except SyntaxError as error:
        raise UnsupportedRuleError(f"CEL rule {text!r} is beyond the stand-in's subset") from error


def _as_python(text: str) -> str:
    condition = re.fullmatch(r"([^?]+)\?([^:]+):(.+)", text)
    if condition:
        test, yes, no = (_as_python(part.strip()) for part in condition.groups())
        return f"(({yes}) if ({test}) else ({no}))"
    text = text.replace("&&", " and ").replace("||", " or ")
    text = re.sub(r"!(?!=)", " not ", text)
    return re.sub(r"\btrue\b", "True", re.sub(r"\bfalse\b", "False", text)).strip()


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
