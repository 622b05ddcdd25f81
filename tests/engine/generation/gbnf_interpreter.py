"""A small interpreter of GBNF, after llama.cpp's own: whether a text matches a grammar, and texts that do."""

from __future__ import annotations

import random
from typing import NamedTuple

MOST_REPEATS = 2000
"""llama.cpp takes greater bounds for none, and refuses so many copies."""


class Set(NamedTuple):
    """One character: of these ranges, or, when negated, of none of them."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool

    def matches(self, character: str) -> bool:
        return any(low <= ord(character) <= high for low, high in self.ranges) != self.negated


class Ref(NamedTuple):
    """A rule."""

    name: str


Element = Set | Ref
Stack = tuple[Element, "Stack | None"]
"""What is still to be matched, the next first."""


class Gbnf:
    """A parsed grammar. Raises `ValueError` for what llama.cpp would refuse, and for a rule that begins with itself."""

    def __init__(self, source: str) -> None:
        self.rules: dict[str, list[tuple[Element, ...]]] = {}
        self._source = source
        self._at = 0
        while self._space(newlines=True) < len(source):
            name = self._name()
            self._space()
            self._expect("::=")
            self._space(newlines=True)
            self.rules[name] = self._alternatives(name, nested=False)
            if self._at < len(source):
                self._expect("\n")
        self._check()
        self._heights = self._least_heights()

    # --- reading ---

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"{problem} at {self._source[self._at : self._at + 40]!r}")

    def _space(self, newlines: bool = False) -> int:
        while self._at < len(self._source) and self._source[self._at] in (" \t\r\n" if newlines else " \t"):
            self._at += 1
        return self._at

    def _expect(self, text: str) -> None:
        if not self._source.startswith(text, self._at):
            raise self._error(f"expected {text!r}")
        self._at += len(text)

    def _name(self) -> str:
        begin = self._at
        while self._at < len(self._source) and (c := self._source[self._at]).isascii() and (c.isalnum() or c == "-"):
            self._at += 1
        if begin == self._at:
            raise self._error("expected a name")
        return self._source[begin : self._at]

    def _character(self) -> int:
        character = self._source[self._at]
        self._at += 1
        if character != "\\":
            return ord(character)
        kind = self._source[self._at]
        self._at += 1
        if kind in "xuU":
            digits = {"x": 2, "u": 4, "U": 8}[kind]
            self._at += digits
            return int(self._source[self._at - digits : self._at], 16)
        if kind in 'trn\\"[]':
            return ord({"t": "\t", "r": "\r", "n": "\n"}.get(kind, kind))
        raise self._error("unknown escape")

    def _alternatives(self, name: str, nested: bool) -> list[tuple[Element, ...]]:
        found = [self._sequence(name, nested)]
        while self._source[self._at : self._at + 1] == "|":
            self._at += 1
            self._space(newlines=True)
            found.append(self._sequence(name, nested))
        return found

    def _helper(self, name: str, alternatives: list[tuple[Element, ...]] | None = None) -> Ref:
        ref = Ref(f"{name}_{len(self.rules)}")
        self.rules[ref.name] = alternatives or []
        return ref

    def _sequence(self, name: str, nested: bool) -> tuple[Element, ...]:
        elements: list[Element] = []
        last = 0
        weight = 1
        while self._at < len(self._source):
            character = self._source[self._at]
            if character == '"':
                self._at += 1
                last, weight = len(elements), 1
                while self._source[self._at] != '"':
                    code = self._character()
                    elements.append(Set(((code, code),), False))
                self._at += 1
            elif character == "[":
                last, weight = len(elements), 1
                elements.append(self._set())
            elif character == ".":
                self._at += 1
                last, weight = len(elements), 1
                elements.append(Set((), True))
            elif character == "(":
                self._at += 1
                self._space(newlines=True)
                before = len(self.rules)
                ref = self._helper(name)
                self.rules[ref.name] = self._alternatives(name, nested=True)
                self._expect(")")
                last, weight = len(elements), max(1, len(self.rules) - before)
                elements.append(ref)
            elif character in "*+?{":
                low, high = self._bounds()
                self._repeat(elements, last, name, low, high, weight)
                weight *= max(high or low, 1)
            elif character == "-" or (character.isascii() and character.isalnum()):
                last, weight = len(elements), 1
                elements.append(Ref(self._name()))
            else:
                break
            self._space(newlines=nested)
        return tuple(elements)

    def _set(self) -> Set:
        self._at += 1
        negated = self._source[self._at] == "^"
        self._at += negated
        ranges = []
        while self._source[self._at] != "]":
            low = high = self._character()
            if self._source[self._at] == "-" and self._source[self._at + 1] != "]":
                self._at += 1
                high = self._character()
            ranges.append((low, high))
        self._at += 1
        if not ranges:
            raise self._error("an empty set")
        return Set(tuple(ranges), negated)

    def _bounds(self) -> tuple[int, int | None]:
        character = self._source[self._at]
        self._at += 1
        if character != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
        end = self._source.index("}", self._at)
        low, comma, high = self._source[self._at : end].partition(",")
        self._at = end + 1
        return int(low), (int(high) if high else None) if comma else int(low)

    def _repeat(self, elements: list[Element], last: int, name: str, low: int, high: int | None, weight: int) -> None:
        if last == len(elements):
            raise self._error("nothing to repeat")
        if weight * max(high or low, 1) >= MOST_REPEATS or low > MOST_REPEATS or (high or 0) > MOST_REPEATS:
            raise self._error("too many repetitions")
        part = tuple(elements[last:])
        del elements[last:]
        elements += part * low
        if high is None:
            ref = self._helper(name)
            self.rules[ref.name] = [(*part, ref), ()]
            elements.append(ref)
            return
        following: tuple[Element, ...] = ()
        for _ in range(high - low):
            following = (self._helper(name, [(*part, *following), ()]),)
        elements += following

    def _check(self) -> None:
        for alternatives in self.rules.values():
            for elements in alternatives:
                for element in elements:
                    if isinstance(element, Ref) and element.name not in self.rules:
                        raise ValueError(f"no rule {element.name}")
        nullable: set[str] = set()
        while found := {
            name
            for name, alternatives in self.rules.items()
            if name not in nullable
            and any(all(isinstance(e, Ref) and e.name in nullable for e in elements) for elements in alternatives)
        }:
            nullable |= found
        leads: dict[str, set[str]] = {}
        for name, alternatives in self.rules.items():
            leads[name] = set()
            for elements in alternatives:
                for element in elements:
                    if not isinstance(element, Ref):
                        break
                    leads[name].add(element.name)
                    if element.name not in nullable:
                        break
        done: set[str] = set()
        for start in leads:  # a walk in depth that meets a rule again on its own path has found a left recursion
            path: list[tuple[str, list[str]]] = [] if start in done else [(start, list(leads[start]))]
            open_rules = {start}
            while path:
                name, pending = path[-1]
                if not pending:
                    path.pop()
                    done.add(name)
                    open_rules.discard(name)
                elif (following := pending.pop()) in open_rules:
                    raise ValueError(f"the rule {following} begins with itself")
                elif following not in done:
                    open_rules.add(following)
                    path.append((following, list(leads[following])))

    # --- matching ---

    def matches(self, text: str) -> bool:
        """Whether the whole text follows the grammar."""
        stacks = self._closed([(Ref("root"), None)])
        for character in text:
            tails = [s[1] for s in stacks if s and isinstance(s[0], Set) and s[0].matches(character)]
            stacks = self._closed(tails)
            if not stacks:
                return False
        return None in stacks

    def _closed(self, pending: list[Stack | None]) -> set[Stack | None]:
        """The stacks whose next element is a character, and `None` for one that is done."""
        found: set[Stack | None] = set()
        seen: set[Stack | None] = set()
        while pending:
            stack = pending.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if stack is None or isinstance(stack[0], Set):
                found.add(stack)
                continue
            for elements in self.rules[stack[0].name]:
                following = stack[1]
                for element in reversed(elements):
                    following = (element, following)
                pending.append(following)
        return found

    # --- writing ---

    def _least_heights(self) -> dict[str, int]:
        heights: dict[str, int] = {}
        changed = True
        while changed:
            changed = False
            for name, alternatives in self.rules.items():
                known = [h for elements in alternatives if (h := self._height(elements, heights)) is not None]
                if known and min(known) + 1 < heights.get(name, 1 << 30):
                    heights[name] = min(known) + 1
                    changed = True
        if unfinished := self.rules.keys() - heights.keys():
            raise ValueError(f"nothing finite matches {sorted(unfinished)}")
        return heights

    @staticmethod
    def _height(elements: tuple[Element, ...], heights: dict[str, int]) -> int | None:
        inner = [heights.get(e.name) for e in elements if isinstance(e, Ref)]
        return None if None in inner else max((h for h in inner if h is not None), default=0)

    def write(self, random: random.Random, fuel: int = 200) -> str:
        """A text that follows the grammar. The more `fuel`, the longer it may be."""
        written: list[str] = []
        pending: list[Element] = [Ref("root")]
        while pending:
            element = pending.pop()
            if isinstance(element, Set):
                written.append(_any_of(element, random))
                continue
            alternatives = self.rules[element.name]
            fuel -= 1
            if fuel > 0:
                chosen = random.choice(alternatives)
            else:
                chosen = min(alternatives, key=lambda e: self._height(e, self._heights) or 0)
            pending.extend(reversed(chosen))
        return "".join(written)


def _any_of(characters: Set, random: random.Random) -> str:
    if not characters.negated:
        low, high = random.choice(characters.ranges)
        return chr(random.randint(low, high))
    while True:
        pool = random.choice([(0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x3FF), (0x4E00, 0x9FFF), (0x1F300, 0x1F64F)])
        character = chr(random.randint(*pool))
        if characters.matches(character):
            return character
