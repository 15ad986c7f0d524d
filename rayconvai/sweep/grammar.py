"""The closed grammar that a space is written in.

An expression is parsed, never evaluated. Either habit works:

=====================================  =====================================================================
Ray Tune's names                       ``choice(a, b)`` ``grid(a, b)`` ``uniform(lo, hi)`` ``loguniform(lo, hi)``
(or ``tune.choice([a, b])`` ...)       ``quniform(lo, hi, q)`` ``randint(lo, hi)`` ``lograndint(lo, hi)``
                                       ``qrandint(lo, hi, q)`` ``grid_search([a, b])`` ``normal(mean, sd)``
Hydra's sweep syntax                   ``a, b`` ``choice(a, b)`` ``range(lo, hi, step)`` ``interval(lo, hi)``
                                       ``tag(log, interval(lo, hi))`` ``int(interval(lo, hi))``
=====================================  =====================================================================

As in the originals, the upper bound of ``randint``, ``lograndint`` and ``range`` is left out, that of all others is
in; ``interval`` gives floats, also between integers. Anything else is one fixed value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString, Sweep
from hydra.errors import HydraException

from rayconvai.errors import SweepError, nearest
from rayconvai.sweep.domains import Choice, Domain, Fixed, Float, Grid, Int, Normal, Point, Value


@dataclass(frozen=True)
class _Call:
    """``name(arguments, keyword=argument)``, not yet understood."""

    name: str
    arguments: tuple[str, ...]
    keywords: Mapping[str, str]


_CALL = re.compile(r"\s*(?:tune\.)?([A-Za-z_]\w*)\s*\((.*)\)\s*", re.DOTALL)
_KEYWORD = re.compile(r"\s*([a-z_]+)\s*=(.*)", re.DOTALL)
_PARSER: OverridesParser | None = None


def parse_domain(expression: Value) -> Domain:
    """Parse what stands behind a space key.

    Raises:
        SweepError: outside the grammar, bounds the wrong way round, no options, a logarithm of nothing positive.
    """
    if not isinstance(expression, str):
        return Fixed(expression)
    text = expression.strip()
    call = _call(text)
    if call is None:
        parts = _split(text)
        if len(parts) > 1:
            return Choice(_options(text, parts))
        return Fixed(_checked(text, parse_value(text)))
    if call.name not in _FUNCTIONS:
        near = nearest(call.name, _FUNCTIONS) or f"; known: {', '.join(sorted(_FUNCTIONS))}"
        raise SweepError(f"'{text}': there is no function '{call.name}'{near}")
    return _FUNCTIONS[call.name](text, call)


def parse_value(text: str) -> Value:
    """Parse one value as Hydra would on the command line.

    Raises:
        SweepError: not a value of Hydra's grammar.
    """
    global _PARSER
    _PARSER = _PARSER or OverridesParser.create()
    try:
        value = _PARSER.parse_override(f"key={text.strip()}").value()
    except HydraException as error:
        raise SweepError(f"'{text}' is not a value: {str(error).splitlines()[0]}") from error
    if isinstance(value, Sweep):
        raise SweepError(f"'{text}': functions cannot stand inside one another like this")
    return _plain(value)


def quote(value: Value) -> str:
    """Write a value so that Hydra's override grammar reads the same value again."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(quote(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quote(item)}" for key, item in value.items()) + "}"
    # Hydra takes a backslash as itself unless a quote, or a run of backslashes before one, follows.
    text = re.sub(r"(\\*)'", r"\1\1\\'", str(value))
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", text) + "'"


def to_overrides(point: Point) -> list[str]:
    """Write a point as Hydra overrides."""
    return [f"{key}={quote(value)}" for key, value in point.items()]


def _call(text: str) -> _Call | None:
    match = _CALL.fullmatch(text)
    if match is None:
        return None
    arguments: list[str] = []
    keywords: dict[str, str] = {}
    for part in _split(match[2]):
        keyword = _KEYWORD.fullmatch(part)
        if keyword:
            keywords[keyword[1]] = keyword[2].strip()
        elif part.strip() or len(_split(match[2])) > 1:
            arguments.append(part.strip())
    if any(not argument for argument in arguments):
        raise SweepError(f"'{text}': nothing stands between two commas")
    return _Call(match[1], tuple(arguments), keywords)


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes."""
    parts, depth, quoted, start = [], 0, "", 0
    for index, char in enumerate(text):
        if quoted:
            escaped = (index - len(text[:index].rstrip("\\"))) % 2 == 1
            quoted = "" if char == quoted and not escaped else quoted
        elif char in "'\"":
            quoted = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth < 0:
                break
        elif char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    if depth or quoted:
        raise SweepError(f"'{text}': {'a quote' if quoted else 'a bracket'} is not closed or not opened")
    return [*parts, text[start:]]


def _plain(value: Value) -> Value:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return value


def _checked(text: str, value: Value) -> Value:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise SweepError(f"'{text}': nan and inf are no values to try; quote what is meant as a text") from error
    return value


def _options(text: str, parts: tuple[str, ...] | list[str]) -> tuple[Value, ...]:
    options = tuple(_checked(text, parse_value(part)) for part in parts)
    if len(options) == 1 and isinstance(options[0], list):  # tune.choice([a, b])
        options = tuple(options[0])
    if not options:
        raise SweepError(f"'{text}': there is nothing to choose from")
    for index, option in enumerate(options):
        if Choice(options[:index]).contains(option):
            raise SweepError(f"'{text}': {option!r} stands twice")
    return options


def _choice(text: str, call: _Call) -> Domain:
    if call.keywords:
        raise SweepError(f"'{text}': {call.name} takes values only; quote one that contains '='")
    options = _options(text, call.arguments)
    return Choice(options) if call.name == "choice" else Grid(options)


def _numbers(text: str, call: _Call, *names: str, optional: int = 0) -> list[int | float]:
    """Read a call's arguments, positional or by name, as numbers; the last ``optional`` may be left out."""
    given: dict[str, str] = dict(zip(names, call.arguments, strict=False))
    unknown = [name for name in call.keywords if name not in names]
    if unknown or len(call.arguments) > len(names) or set(given) & set(call.keywords):
        near = nearest(unknown[0], names) if unknown else ""
        raise SweepError(f"'{text}': {call.name} takes ({', '.join(names)}){near}")
    given |= dict(call.keywords)
    missing = [name for name in names[: len(names) - optional] if name not in given]
    if missing:
        raise SweepError(f"'{text}': {call.name} takes ({', '.join(names)}); {missing[0]} is missing")
    numbers: list[int | float] = []
    for name in names:
        if name in given:
            value = parse_value(given[name])
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise SweepError(f"'{text}': {name} is {given[name]}, not a number")
            numbers.append(value)
    return numbers


def _integers(text: str, call: _Call, *names: str, optional: int = 0) -> list[int]:
    numbers = _numbers(text, call, *names, optional=optional)
    for number in numbers:
        if not isinstance(number, int):
            raise SweepError(f"'{text}': {number} is not an integer, and {call.name} draws integers")
    return [int(number) for number in numbers]


def _ordered(text: str, low: float, high: float, *, log: bool = False) -> None:
    if low >= high:
        turn = f"; the other way round: {high:g}, {low:g}" if low > high else "; there is nothing between them"
        raise SweepError(f"'{text}': the lower bound {low:g} is not below the upper bound {high:g}{turn}")
    if log and low <= 0:
        raise SweepError(f"'{text}': the lower bound {low:g} has no logarithm; it must be above 0")


def _float(text: str, call: _Call) -> Float:
    low, high = _numbers(text, call, *(("start", "end") if call.name == "interval" else ("lower", "upper")))
    log = call.name == "loguniform"
    _ordered(text, low, high, log=log)
    return Float(float(low), float(high), log)


def _quniform(text: str, call: _Call) -> Float:
    low, high, step = _numbers(text, call, "lower", "upper", "q")
    _ordered(text, low, high)
    _multiples(text, low, high, step)
    return Float(float(low), float(high), step=float(step))


def _qrandint(text: str, call: _Call) -> Int:
    low, high, step = _integers(text, call, "lower", "upper", "q")
    _ordered(text, low, high)
    _multiples(text, low, high, step)
    return Int(low, high, step=step)


def _multiples(text: str, low: float, high: float, step: float) -> None:
    """Ray draws multiples of q, not steps from the lower bound: refuse where the two differ."""
    if step <= 0:
        raise SweepError(f"'{text}': q is {step:g}; it must be above 0")
    for bound in (low, high):
        if not math.isclose(bound / step, round(bound / step), abs_tol=1e-9):
            raise SweepError(f"'{text}': {bound:g} is no multiple of q={step:g}; use range(lower, stop, step)")


def _normal(text: str, call: _Call) -> Normal:
    mean, sd = _numbers(text, call, "mean", "sd")
    if sd <= 0:
        raise SweepError(f"'{text}': sd is {sd:g}; it must be above 0")
    return Normal(float(mean), float(sd))


def _randint(text: str, call: _Call) -> Int:
    low, stop = _integers(text, call, "lower", "upper")
    log = call.name == "lograndint"
    _ordered(text, low, stop, log=log)
    return Int(low, stop - 1, log)


def _range(text: str, call: _Call) -> Domain:
    if len(call.arguments) == 1 and "stop" not in call.keywords:
        call = _Call(call.name, ("0", *call.arguments), call.keywords)
    start, stop, *steps = _numbers(text, call, "start", "stop", "step", optional=1)
    step = steps[0] if steps else 1
    if step <= 0:
        raise SweepError(f"'{text}': step is {step:g}; it must be above 0")
    _ordered(text, start, stop)
    count = math.ceil(round((stop - start) / step, 9))
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        return Int(start, start + (count - 1) * step, step=step)
    if count == 1:
        raise SweepError(f"'{text}' holds one value, {start:g}; give a step, or write interval(...)")
    return Float(float(start), round(start + (count - 1) * step, 12), step=float(step))


def _tag(text: str, call: _Call) -> Domain:
    if len(call.arguments) != 2 or call.keywords or call.arguments[0] != "log":
        raise SweepError(f"'{text}': the one tag is log, as in tag(log, interval(1e-4, 1e-2))")
    inner = parse_domain(call.arguments[1])
    if not isinstance(inner, (Float, Int)) or inner.step not in (None, 1):
        raise SweepError(f"'{text}': tag(log, ...) takes an interval or a range of integers")
    _ordered(text, inner.low, inner.high, log=True)
    return Float(inner.low, inner.high, log=True) if isinstance(inner, Float) else Int(inner.low, inner.high, log=True)


def _cast(text: str, call: _Call) -> Domain:
    inner = parse_domain(call.arguments[0]) if len(call.arguments) == 1 and not call.keywords else None
    kind = int if call.name == "int" else float
    if isinstance(inner, (Float, Int)) and inner.step in (None, 1):
        if kind is float:
            return Float(float(inner.low), float(inner.high), inner.log)
        low, high = math.ceil(inner.low), math.floor(inner.high)  # both ends in, as Hydra's own int(interval(...))
        _ordered(text, low, high, log=inner.log)
        return Int(low, high, inner.log)
    raise SweepError(f"'{text}': {call.name}(...) takes an interval, as in {call.name}(interval(1, 8))")


_FUNCTIONS: dict[str, Callable[[str, _Call], Domain]] = {
    "choice": _choice,
    "grid": _choice,
    "grid_search": _choice,
    "uniform": _float,
    "loguniform": _float,
    "interval": _float,
    "normal": _normal,
    "quniform": _quniform,
    "randint": _randint,
    "lograndint": _randint,
    "qrandint": _qrandint,
    "range": _range,
    "tag": _tag,
    "int": _cast,
    "float": _cast,
}
