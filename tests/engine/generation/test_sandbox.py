"""Templates of strangers: what they may do, and that they can neither reach out nor go on for ever."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from jinja2 import TemplateError, UndefinedError
from jinja2.exceptions import SecurityError

from engine.generation.sandbox import MAX_SOURCE, MAX_VALUE, Refusal, Sandbox, TooMuchWork


def render(source: str, **variables: Any) -> str:
    ticks = count()  # each look at the clock is ten milliseconds
    return Sandbox(lambda: next(ticks) / 100).compiled(source)(variables)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "{% for x in items %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ' ' if not loop.last }}{% endfor %}",
            "1/2:a 2/2:b",
        ),
        ("{% for x in items if x == 'b' %}{{ x }}{% endfor %}", "b"),
        ("{% for x in items %}{% if loop.first %}{% continue %}{% endif %}{{ x }}{% break %}{% endfor %}", "b"),
        ("{% for x in items|map('upper') %}{{ loop.length }}{{ x }}{% endfor %}", "2A2B"),
        ("{% for x in missing %}{{ x }}{% else %}none{% endfor %}", "none"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("  {% if true %}\n  yes\n  {% endif %}\n", "  yes\n"),
        ("{{ {'é<': [1, none, true]}|tojson }}", '{"é<": [1, null, true]}'),
        ("{{ {'a': [1]}|tojson(indent=2) }}", '{\n  "a": [\n    1\n  ]\n}'),
        ("{{ ['b', 'a']|sort|join('-') }}{{ 'x' ~ 1 ~ none ~ missing }}", "a-bx1None"),
        ("{% set ns = namespace(n=0) %}{% for x in items %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% macro show(x) %}<{{ x }}>{% endmacro %}{{ show(items[0]) }}{{ items[1:] }}", "<a>['b']"),
        ("{% set text %}{{ items|length }}{% endset %}{{ text|trim }}", "2"),
        ("{{ ' a '.strip() + 'b,c'.split(',')[-1] + 'xx'.replace('x', 'y') }}{{ 'ab' * 2 }}{{ 2 ** 3 }}", "acyyabab8"),
        ("{{ '%02d' % 7 }}{{ '{:>3}'.format('x') }}", "07  x"),
        ("{{ 'a\n\nb'|indent(2) }}{{ 'a\nb'|indent(1, true) }}", "a\n\n  b a\n b"),
        ("{% generation %}{{ items[0] }}{% endgeneration %}", "a"),
        ("{{ range(3)|list }}{{ messages is defined }}{{ 'a' in items }}", "[0, 1, 2]FalseTrue"),
        ("{{ strftime_now('%Y')|length }}", "4"),
    ],
)
def test_what_chat_templates_do(source: str, text: str) -> None:
    assert render(source, items=["a", "b"]) == text


def test_a_template_may_refuse() -> None:
    with pytest.raises(Refusal, match="Roles must alternate"):
        render("{{ raise_exception('Roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ loop.index }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
        "{% for i in range(9) recursive %}{% if loop.depth < 50 %}{{ loop(range(9)) }}{% endif %}{% endfor %}",
        "{% for i in range(99999) %}{% set x = 'ab'.upper().lower() %}{{ x|upper|lower|title }}{% endfor %}",
    ],
)
def test_a_template_that_computes_for_too_long_is_stopped(source: str) -> None:
    with pytest.raises(TooMuchWork, match="2 seconds"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{% set ns = namespace(s='aaaa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='a') %}"
        "{% for i in range(99) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
        "{% set s = 'a' * 9999 %}{{ s.replace('a', s) }}",
        "{% set s = 'a' * 9999 %}{{ s|replace('a', s) }}",
        "{% set s = 'a' * 9999 %}{{ s.join(s) }}",
        "{% set s = 'a' * 9999 %}{{ s|list|join(s) }}",
        "{% set s = 'a' * 9999999 %}{{ s }}{{ s }}",
        "{{ [1]|batch(1000000000, 0)|list }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ (2 ** 64) * (2 ** 64) * 2 }}",
        "{% for i in range(99999) %}" + "long text " * 100 + "{% endfor %}",
    ],
)
def test_a_template_that_makes_too_much_is_stopped(source: str) -> None:
    with pytest.raises(TooMuchWork):
        render(source)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{ ''.__class__.__mro__ }}", SecurityError),
        ("{{ messages.append(1) }}", SecurityError),
        ("{{ raise_exception.__globals__.get }}", SecurityError),
        ("{{ 'x'.center(10) }}", SecurityError),
        ("{{ 'x'.encode() }}", SecurityError),
        ("{{ (1).to_bytes(100) }}", SecurityError),
        ("{{ '{:9999999}'.format(1) }}", SecurityError),
        ("{{ '%9999999d' % 1 }}", SecurityError),
        ("{{ '%*d' % (9999999, 1) }}", SecurityError),
        ("{{ [1]|tojson(indent=9999999) }}", SecurityError),
        ("{{ 'a'|indent(9999999) }}", SecurityError),
        ("{{ strftime_now('%9999999d') }}", SecurityError),
        ("{{ lipsum(9) }}", UndefinedError),
        ("{{ range(1000000) }}", OverflowError),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", RecursionError),
        ("{% include 'other' %}", TypeError),
    ],
)
def test_what_a_template_may_not_do(source: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        render(source, messages=[])


@pytest.mark.parametrize("source", ["{{ ''.__class__ }}", "{{ '{0.__class__}'.format(1) }}", "{{ messages.__len__ }}"])
def test_what_is_private_is_not_there(source: str) -> None:
    assert render(source, messages=[]) == ""


@pytest.mark.parametrize("source", ["{% if %}", "{{ 'x'|center(10) }}", "{{ " + "(" * 5000 + ")" * 5000 + " }}"])
def test_mistakes_in_the_form_of_a_template(source: str) -> None:
    with pytest.raises(TemplateError):
        Sandbox().compiled(source)


def test_the_size_of_a_template_is_bounded() -> None:
    with pytest.raises(TooMuchWork):
        Sandbox().compiled("x" * (MAX_SOURCE + 1))


def test_long_conversations_are_no_work() -> None:
    messages = [{"content": "word " * 2000} for _ in range(500)]
    source = "{% for m in messages %}{% set c = m.content %}{{ c|trim + '\n' }}{% endfor %}"
    text = Sandbox().compiled(source)({"messages": messages})
    assert 4_900_000 < len(text) < MAX_VALUE
