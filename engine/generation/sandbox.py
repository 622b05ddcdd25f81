"""Runs chat templates, which are code of a stranger: they come with the model's file.

Jinja's sandbox keeps a template from Python's inner parts. What is added here bounds the time and the memory that it
may take, since it runs on the model's own thread.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SOURCE = 1 << 20
"""Characters of a template."""
MAX_VALUE = 16 << 20
"""Characters of a value, and of the output: far more than any context holds."""
MAX_TOTAL = 256 << 20
"""Characters of all values that one rendering makes."""
MAX_SECONDS = 2.0
"""Processor time of one rendering, which takes a few milliseconds at most when it is an honest one."""


class Refusal(Exception):
    """The template called `raise_exception`: it cannot show this conversation, and says why."""


class TooMuchWork(Exception):
    """The template takes more time or memory than any chat needs."""


class _Budget:
    """What is left of the bounds while one rendering runs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.start()

    def start(self) -> None:
        self._end = self._clock() + MAX_SECONDS
        self._left = MAX_TOTAL
        self._ticks = 0

    def tick(self) -> None:
        """To be called at least once for every pass of a loop."""
        self._ticks += 1
        if not self._ticks & 63 and self._clock() > self._end:
            raise TooMuchWork(f"it computes for longer than {MAX_SECONDS:g} seconds")

    def spend(self, characters: int) -> None:
        self.tick()
        self._left -= characters
        if characters > MAX_VALUE or self._left < 0:
            raise TooMuchWork("it makes too much text")

    def weigh(self, *values: Any) -> int:
        """Roughly the characters that values have as text, or the bytes that they take if those are more.

        A list that is in another many times counts as often.
        """
        total = 0
        pending = list(values)
        while pending:
            value = pending.pop()
            if isinstance(value, str):
                total += len(value)
            elif isinstance(value, list | tuple):
                total += 64 + 8 * len(value)
                pending += value
            elif isinstance(value, dict):
                total += 64 + 16 * len(value)
                pending += value.keys()
                pending += value.values()
            else:
                total += 8
            if total > MAX_VALUE:
                raise TooMuchWork("it makes too much text")
        return total

    def result(self, value: Any) -> Any:
        """`value`, charged for; what would be computed bit by bit is computed now."""
        if isinstance(value, Iterator):
            value = list(islice(value, MAX_VALUE // 64))
        self.spend(self.weigh(value))
        return value


class _Counted:
    """The items that a loop goes through."""

    def __init__(self, items: Iterable[Any], tick: Callable[[], None]) -> None:
        self._items = items
        self._tick = tick

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._tick()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type] # Jinja asks, and catches the TypeError of what has none


class _GenerationTag(Extension):
    """``{% generation %}`` marks what the assistant said, for training; here it only shows its content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class _Metering(NodeTransformer):
    """Puts a filter of ours around what loops go through, what is assigned, and what is joined by ``~``."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's interface
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, "_counted")
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.node = self._filtered(node.node, "_weighed")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    @staticmethod
    def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


_FILTERS = frozenset(
    {
        *("abs", "attr", "batch", "capitalize", "count", "d", "default", "dictsort", "e", "escape"),
        *("filesizeformat", "first", "float", "forceescape", "groupby", "int", "items", "join", "last"),
        *("length", "list", "lower", "map", "max", "min", "random", "reject", "rejectattr", "replace"),
        *("reverse", "round", "safe", "select", "selectattr", "slice", "sort", "string", "striptags", "sum"),
        *("title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount", "xmlattr"),
    }
)
"""Jinja's filters, but for those that make much of little: ``center``, ``format``, ``wordwrap`` and the like."""

_STRING_METHODS = frozenset(
    {
        *("capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha"),
        *("isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join"),
        *("lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex"),
        *("rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase"),
        *("title", "upper"),
    }
)
_METHODS: tuple[tuple[Any, frozenset[str]], ...] = (
    (str, _STRING_METHODS),
    (dict, frozenset({"copy", "get", "items", "keys", "values"})),
    (list, frozenset({"copy", "count", "index"})),
    (tuple, frozenset({"count", "index"})),
    ((int, float), frozenset()),
    (bytes, frozenset()),
)
"""What templates may call on values; `is_safe_attribute` of Jinja knows about access alone, not about cost."""

_WIDE = re.compile(r"\d{4}|\{[^}]*\{")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that templates are compiled and run in, as the ``transformers`` library sets it up."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag])
        budget = self._budget = _Budget(clock)
        own = {"tojson": _to_json, "indent": _indent}
        filters: dict[str, Any] = {name: f for name, f in FILTERS.items() if name in _FILTERS} | own
        self.filters = {name: self._metered(name, f) for name, f in filters.items()} | {
            "_counted": lambda items: _Counted(items, budget.tick),
            "_weighed": budget.result,
            "_joined": lambda parts: self._concat(map(str, parts)),
        }
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now}
        self.concat = self._concat  # type: ignore[method-assign] # one that counts, for this instance
        self.finalize = lambda value: value if isinstance(value, str) else budget.result(value)

    def compiled(self, source: str) -> Callable[[Mapping[str, Any]], str]:
        """A function that renders `source` with the given variables.

        It raises `Refusal`, `TooMuchWork`, or whatever else a template's mistakes raise. Raises `TemplateError` or
        `TooMuchWork` itself when there is a mistake in the template's form.
        """
        if len(source) > MAX_SOURCE:
            raise TooMuchWork(f"it has more than {MAX_SOURCE} characters")
        self._budget.start()
        try:
            template = self.from_string(_Metering().visit(self.parse(source)))
        except RecursionError:
            raise TemplateError("It is nested too deeply.") from None

        def render(variables: Mapping[str, Any]) -> str:
            self._budget.start()
            return self._concat(template.root_render_func(template.new_context(dict(variables))))

        return render

    # --- what Jinja asks of a sandbox ---

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may have an attribute of a value."""
        for kind, names in _METHODS:
            if isinstance(obj, kind):
                return attr in names
        return bool(super().is_safe_attribute(obj, attr, value))

    def wrap_str_format(self, value: Any) -> Any:
        """Jinja's own care for ``str.format``, for formats that do not ask for great widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE.search(value.__self__):
            raise SecurityError("str.format may not ask for such widths here")
        return wrapped

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - Jinja's names
        """Calls a function, macro or method."""
        budget = __self._budget
        spent = budget.weigh(args, kwargs)
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            spent += _size_of(name, owner, args)
        budget.spend(spent)
        result = super().call(__context, __obj, *args, **kwargs)
        return result if isinstance(__obj, Macro) else budget.result(result)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Computes what may grow."""
        for value in left, right:
            if isinstance(value, int) and abs(value) >= 1 << 64:
                raise TooMuchWork("it computes with enormous numbers")
        if operator == "**" and isinstance(right, int) and right > 64:
            raise TooMuchWork("it computes enormous powers")
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            times = left if isinstance(left, int) else right if isinstance(right, int) else 1
            self._budget.spend(self._budget.weigh(left, right) * max(times, 1))
        if operator == "%" and isinstance(left, str) and (_WIDE.search(left) or "*" in left):
            raise SecurityError("the operator % may not ask for such widths here")
        return self._budget.result(super().call_binop(context, operator, left, right))

    # --- what costs ---

    def _metered(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        budget = self._budget

        @functools.wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            spent = budget.weigh(args, kwargs)
            texts = [a for a in args if isinstance(a, str)]
            if name == "replace":
                spent += _size_of(name, texts[0], texts[1:]) if texts else 0
            elif name == "join" and texts:
                spent += len(texts[-1]) * max((len(a) for a in args if isinstance(a, list | tuple | str)), default=0)
            elif name in ("batch", "slice") and any(isinstance(a, int) and a > 100_000 for a in args):
                raise TooMuchWork(f"it uses the filter {name} for enormous lists")
            budget.spend(spent)
            return budget.result(function(*args, **kwargs))

        return metered

    def _concat(self, parts: Iterable[str]) -> str:
        """`parts` as one, as long as they are not too many: unlike ``"".join``, it looks while they come."""
        kept: list[str] = []
        length = 0
        for part in parts:
            length += len(part)
            if length > MAX_VALUE:
                raise TooMuchWork("it makes too much text")
            kept.append(part)
        self._budget.spend(length)
        return "".join(kept)


def _size_of(name: str, owner: str, args: Iterable[Any]) -> int:
    """At most how many characters a method of a string returns."""
    first, second, *_ = [*args, "", ""]
    if name == "replace" and isinstance(first, str) and isinstance(second, str):
        return (owner.count(first) if len(second) > len(first) else 0) * len(second)
    if name == "join" and isinstance(first, list | tuple | dict | str):
        return len(owner) * len(first)
    return len(owner)


def _refuse(message: Any) -> None:
    raise Refusal(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > 200 or _WIDE.search(form):
        raise SecurityError("strftime_now takes short formats only")
    return datetime.now().astimezone().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates mean it: unlike Jinja's own, it escapes nothing for HTML."""
    if indent is not None and indent > 16:
        raise SecurityError("tojson indents by 16 at most")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's filter ``indent``, for sane widths."""
    margin = width if isinstance(width, str) else " " * width if width <= 64 else None
    if margin is None or len(margin) > 64:
        raise SecurityError("indent takes widths up to 64")
    head, *rest = text.splitlines(keepends=True) or [""]
    lines = [margin + line if line.strip() or blank else line for line in rest]
    return (margin if first else "") + head + "".join(lines)
