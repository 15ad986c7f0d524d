"""Constraints between the keys of a space: a small language of its own, parsed and never handed to Python.

``model.encoder.d_model % model.encoder.num_heads == 0`` or ``optim != 'muon' or optim.lr < 0.1``: config keys, numbers,
quoted texts, ``true``, ``false``, ``null``, ``[lists]``, comparisons (also ``a < b < c``, ``in``, ``not in``), ``and``,
``or``, ``not``, ``+ - * / // % **``, and ``min``, ``max``, ``abs``, ``len``.

A key that a point does not have makes what is said of it neither true nor false. A constraint holds for a point unless
it is false whatever such keys might be.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rayconvai.errors import SweepError
from rayconvai.sweep.domains import Value

ABSENT = object()
"""What stands for the value of a key that a point does not have."""
Lookup = Callable[[str], Value]
"""Gives a key's value, or ABSENT."""


@dataclass(frozen=True)
class Constraint:
    """One expression that is to be true of every point."""

    text: str
    names: tuple[str, ...]
    """The keys that it is about."""
    _tree: ast.expr

    def holds(self, lookup: Lookup) -> bool:
        """Tell whether a point may be tried.

        Raises:
            SweepError: a value of the wrong type, a division by zero, a result that is neither true nor false.
        """
        try:
            return _truth(_evaluate(self._tree, lambda index: lookup(self.names[index]))) is not False
        except ArithmeticError as error:
            reason = "division by zero" if isinstance(error, ZeroDivisionError) else "a number is too large"
            raise SweepError(f"constraint '{self.text}': {reason}") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise SweepError(f"constraint '{self.text}': {error}") from error


def parse_constraint(text: str, groups: Iterable[str] = ()) -> Constraint:
    """Parse one constraint.

    Args:
        text: the expression.
        groups: keys with a slash, such as ``model/encoder``, that are names and no division.

    Raises:
        SweepError: it cannot be read, or has a part that is outside the language.
    """
    names: list[str] = []

    def name(match: re.Match[str]) -> str:
        word = match["name"] or ""
        called = text[match.end() :].lstrip().startswith("(")
        if not word or word in _WORDS or (word in _FUNCTIONS and called):
            return _WORDS.get(word, match[0])
        if word not in names:
            names.append(word)
        return f"k{names.index(word)}"

    # Names are numbered first: config keys can be words of Python's, or have numbers or slashes in them.
    slashed = "".join(rf"{re.escape(group)}(?![\w.])|" for group in sorted(groups, key=len, reverse=True))
    text = text.strip()
    try:
        tree = ast.parse(re.sub(rf"{_LITERAL}|(?P<name>{slashed}[^\W\d]\w*(?:\.\w+)*)", name, text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        hint = "; write == to compare" if re.search(r"(?<![=<>!])=(?!=)", text) else ""
        raise SweepError(f"constraint '{text}' cannot be read{hint}") from error
    for node in ast.walk(tree):
        if not _inside(node):
            part = re.sub(r"\bk(\d+)\b", lambda match: names[int(match[1])], ast.unparse(node))
            raise SweepError(f"constraint '{text}': {part} is outside the language{_known(node)}")
    return Constraint(text, tuple(names), tree)


_LITERAL = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"""
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs, "len": len}
_WORDS = {
    **{word: word for word in ("and", "or", "not", "in", "True", "False", "None")},
    "true": "True", "false": "False", "null": "None",
}  # fmt: skip
_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: lambda base, exponent: _power(base, exponent),
}  # fmt: skip
_ORDER: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_LARGEST = 4096
"""Bits of a power: an exponent may be a config key, and must not keep the machine busy."""


def _inside(node: ast.AST) -> bool:
    match node:
        case ast.Constant():
            return node.value is None or type(node.value) in (bool, int, float, str)
        case ast.Call():
            return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
        case ast.BinOp():
            return type(node.op) in _ARITHMETIC
        case ast.UnaryOp():
            return isinstance(node.op, (ast.Not, ast.USub))
    operators = (ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context)
    return isinstance(node, (ast.BoolOp, ast.Compare, ast.List, ast.Name, *operators))


def _known(node: ast.AST) -> str:
    return f"; its functions are {', '.join(_FUNCTIONS)}" if isinstance(node, ast.Call) else ""


def _evaluate(node: ast.expr, name: Callable[[int], Value]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return name(int(node.id[1:]))
        case ast.BoolOp():
            return _junction(node, name)
        case ast.UnaryOp(op=ast.Not()):
            truth = _truth(_evaluate(node.operand, name))
            return truth if truth is ABSENT else not truth
        case ast.Compare():
            return _comparison(node, name)
    parts = [_evaluate(part, name) for part in _parts(node)]
    if any(part is ABSENT for part in parts):
        return ABSENT
    match node:
        case ast.List():
            return parts
        case ast.UnaryOp():
            return -_number(parts[0])
        case ast.BinOp():
            return _ARITHMETIC[type(node.op)](*map(_number, parts))
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return _FUNCTIONS[node.func.id](*parts)


def _parts(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp():
            return [node.left, node.right]
        case ast.UnaryOp():
            return [node.operand]
        case ast.List():
            return node.elts
    assert isinstance(node, ast.Call)
    return node.args


def _junction(node: ast.BoolOp, name: Callable[[int], Value]) -> Any:
    """``and`` stops at the first false, ``or`` at the first true, whatever is absent beside it."""
    decisive, absent = isinstance(node.op, ast.Or), False
    for part in node.values:
        truth = _truth(_evaluate(part, name))
        if truth is decisive:
            return decisive
        absent = absent or truth is ABSENT
    return ABSENT if absent else not decisive


def _comparison(node: ast.Compare, name: Callable[[int], Value]) -> Any:
    absent = False
    left = _evaluate(node.left, name)
    for op, comparator in zip(node.ops, node.comparators, strict=True):
        right = _evaluate(comparator, name)
        if left is ABSENT or right is ABSENT:
            absent = True
        elif not _compare(op, left, right):
            return False
        left = right
    return ABSENT if absent else True


def _compare(op: ast.cmpop, left: Any, right: Any) -> bool:
    match op:
        case ast.Eq():
            return _equal(left, right)
        case ast.NotEq():
            return not _equal(left, right)
        case ast.In() | ast.NotIn():
            if not isinstance(right, list):
                raise TypeError(f"{right!r} is no list to look in")
            return any(_equal(left, item) for item in right) is isinstance(op, ast.In)
    if not isinstance(left, str) or not isinstance(right, str):
        left, right = _number(left), _number(right)
    return _ORDER[type(op)](left, right)


def _equal(left: Any, right: Any) -> bool:
    """As Python, but true is not 1."""
    return isinstance(left, bool) is isinstance(right, bool) and bool(left == right)


def _truth(value: Any) -> Any:
    if value is ABSENT or isinstance(value, bool):
        return value
    raise TypeError(f"{value!r} is neither true nor false")


def _number(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise TypeError(f"{value!r} is not a number")


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > _LARGEST:
        raise OverflowError
    return _number(base**exponent)  # a negative number has complex roots
