"""A grammar under construction: its rules, of which `Grammar.text` makes GBNF.

It leaves out what could never be finished, such as an object that requires one more of itself, because a model that
steps into it cannot come out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from engine.generation.gbnf import EMPTY, NEVER, Alt, Chars, Node, Repeat, Rule, Seq, alt, one_of, repeat, seq
from engine.generation.gbnf_writer import gbnf


class Grammar:
    """Rules under construction."""

    def __init__(self) -> None:
        self._rules: dict[str, Node] = {}
        self._numbers: dict[str, int] = {}
        """How many rules have a name with this beginning."""

    def __len__(self) -> int:
        return len(self._rules)

    def reserve(self, hint: str) -> Rule:
        """A rule whose content follows by `define`; that allows it to refer to itself."""
        base = "".join(c if c.isascii() and c.isalnum() else "-" for c in hint[-40:]).strip("-") or "rule"
        name = base
        while name in self._rules or name == "root":
            self._numbers[base] = self._numbers.get(base, 1) + 1
            name = f"{base}-{self._numbers[base]}"
        self._rules[name] = NEVER
        return Rule(name)

    def define(self, rule: Rule, node: Node) -> Rule:
        """Gives a reserved rule its content."""
        self._rules[rule.name] = node
        return rule

    def rule(self, hint: str, node: Node) -> Rule:
        """A new rule, named like `hint`."""
        return self.define(self.reserve(hint), node)

    def shared(self, name: str, make: Callable[[], Node]) -> Rule:
        """The rule of this very name, which is made when it is first asked for."""
        if name not in self._rules:
            self._rules[name] = make()
        return Rule(name)

    def free_text(self, marks: Mapping[str, Node], may_end: bool) -> Node:
        """Text up to the first of the marks, the mark, and what the mapping has for it; or just text without any.

        Each rule is a state of the search for the marks: what was read last, as far as it is the beginning of one.
        """
        beginnings = {mark[:n] for mark in marks for n in range(len(mark))} or {""}
        states = {seen: self.reserve("text") for seen in sorted(beginnings)}
        letters = "".join(sorted({c for mark in marks for c in mark}))
        for seen, state in states.items():
            choices: list[Node] = [EMPTY] if may_end else []
            others = letters
            for letter in letters:
                now = seen + letter
                found = next((mark for mark in marks if now.endswith(mark)), None)
                rest = next(now[n:] for n in range(len(now) + 1) if now[n:] in states)
                if found is not None or rest:
                    choices.append(seq(letter, states[rest] if found is None else marks[found]))
                else:
                    others = others.replace(letter, "")
            choices.append(seq(~one_of(others), states[""]))
            self.define(state, alt(*choices))
        return states[""]

    def text(self, root: Node) -> str | None:
        """The grammar in GBNF, with `root` as the rule where it begins; `None` when nothing can match it."""
        finite = self._finite()
        root = self._pruned(root, finite)
        if root == NEVER:
            return None
        kept = {"root": root}
        pending = [root]
        while pending:
            for name in _names_in(pending.pop()):
                if name not in kept:
                    kept[name] = self._pruned(self._rules[name], finite)
                    pending.append(kept[name])
        return gbnf(kept)

    def _finite(self) -> set[str]:
        """The rules that something finite matches."""
        finite: set[str] = set()
        waiting = list(self._rules)
        while True:
            before = len(finite)
            waiting.reverse()  # whichever way rules build on each other, one of the two ways is quick
            finite.update(name for name in waiting if _is_finite(self._rules[name], finite))
            if len(finite) == before:
                return finite
            waiting = [name for name in waiting if name not in finite]

    def _pruned(self, node: Node, finite: set[str]) -> Node:
        """`node` without the choices that could never be finished."""
        if isinstance(node, Rule):
            return node if node.name in finite else NEVER
        if isinstance(node, Seq):
            return seq(*(self._pruned(part, finite) for part in node.parts))
        if isinstance(node, Alt):
            return alt(*(p for choice in node.choices if (p := self._pruned(choice, finite)) != NEVER))
        if isinstance(node, Repeat):
            return repeat(self._pruned(node.part, finite), node.least, node.most)
        return node


def _names_in(node: Node) -> list[str]:
    if isinstance(node, Rule):
        return [node.name]
    if isinstance(node, Repeat):
        return _names_in(node.part)
    inner: Sequence[Node] = node.parts if isinstance(node, Seq) else node.choices if isinstance(node, Alt) else ()
    return [name for part in inner for name in _names_in(part)]


def _is_finite(node: Node, finite: set[str]) -> bool:
    if isinstance(node, Rule):
        return node.name in finite
    if isinstance(node, Seq):
        return all(_is_finite(part, finite) for part in node.parts)
    if isinstance(node, Alt):
        return any(_is_finite(choice, finite) for choice in node.choices)
    if isinstance(node, Repeat):
        return node.least == 0 or _is_finite(node.part, finite)
    return not isinstance(node, Chars) or bool(node.ranges)
