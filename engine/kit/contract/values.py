"""Checks of models that map JSON values to JSON values, as plugins do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import msgspec

from backends.base import InvalidInput, ValueBackend
from engine.kit.contract.model import Broken, Check, Model, told
from engine.worker.answers import RESERVED

_CLOSE = 1e-3
"""Relative, between the numbers of two answers."""
_LONG = 1000
"""Characters from which a text is taken for data, such as an image, and not changed."""
_MOST_CHUNKS = 100
"""Taken from a stream, which may go on for ever."""

Body = dict[str, Any]


def the_example_is_answered(model: Model) -> None:
    """With an object that JSON can hold."""
    backend, _ = model.loaded
    _check_answer(_answer(backend, model.example()), "predict")


def a_batch_is_answered_as_one_by_one(model: Model) -> str | None:
    """A caller must not notice that others were computed with him."""
    backend, info = model.loaded
    if not info.batchable:
        return f"{info.unbatched_reason} Requests are computed one by one."
    example = model.example()
    bodies, alone = [example], [_answer(backend, example)]
    if _difference(alone[0], _answer(backend, example)):
        return "Two answers to the same request differ, so that batches could not be compared."
    for body in _variants(example):
        (result,) = backend.predict_values([body])
        if not isinstance(result, Exception):
            bodies.append(body)
            alone.append(result)
    together = backend.predict_values(bodies * 2)
    for body, expected, got in zip(bodies * 2, alone * 2, together, strict=True):
        if isinstance(got, Exception):
            raise Broken(f"A batch of {len(together)} requests failed: {told(got)}. Each of them was answered alone.")
        difference = _difference(expected, got)
        if difference:
            raise Broken(
                f"Of a batch, the answer to {_short(body)} is not what it is alone: {difference}. predict_batch must "
                "answer each request by itself, in order."
            )
    return None


def a_bad_body_fails_alone(model: Model) -> str | None:
    """Those that were computed with it are answered, and its caller is told what is wrong."""
    backend, _ = model.loaded
    example = model.example()
    advice = None
    for bad in ({}, dict.fromkeys(example)):
        results = backend.predict_values([example, bad, example])
        if len(results) != 3:
            raise Broken(f"Three requests got {len(results)} results.")
        for good in (results[0], results[2]):
            if isinstance(good, Exception):
                raise Broken(f"The example fails in the company of {_short(bad)}: {told(good)}. It must fail alone.")
        if isinstance(results[1], Exception) and not isinstance(results[1], InvalidInput):
            advice = advice or (
                f"{_short(bad)} raised {told(results[1])}, which its caller gets as status 500. Check the body, and "
                "raise InvalidInput(message, field=...) if it is wrong: that is status 400."
            )
    return advice


def a_stream_gives_objects_and_can_be_left(model: Model) -> str | None:
    """Chunks are objects that JSON can hold; a reader may leave, and the next request is answered."""
    backend, info = model.loaded
    if not info.streams:
        return "It does not stream."
    body = model.example()
    count = 0
    for chunk in itertools.islice(_chunks(backend, body), _MOST_CHUNKS):
        _check_answer(chunk, "stream")
        count += 1
    if not count:
        raise Broken(f"stream() gives nothing for {_short(body)}; it must yield at least one dict.")
    left = _chunks(backend, body)
    next(left, None)
    left.close()
    _answer(backend, body)
    return None


def _chunks(backend: ValueBackend, body: Body) -> Any:
    """The chunks of a stream; what the model raises is `Broken`, also when the stream is closed."""
    try:
        yield from backend.stream(body)
    except Exception as e:
        raise Broken(f"stream() raised {told(e)} for {_short(body)}.") from e


def _answer(backend: ValueBackend, body: Body) -> Body:
    results = backend.predict_values([body])
    if len(results) != 1:
        raise Broken(f"One request got {len(results)} results.")
    if isinstance(results[0], Exception):
        raise Broken(f"It does not answer {_short(body)}: {told(results[0])}.") from results[0]
    return results[0]


def _check_answer(answer: Any, method: str) -> None:
    """Raises `Broken` unless `answer` is an object that comes back from JSON as it is."""
    if not isinstance(answer, dict):
        raise Broken(f"{method}() gives a {type(answer).__name__}; it must give a dict.")
    taken = [key for key in RESERVED if key in answer]
    if taken:
        raise Broken(f"{method}() uses the key {taken[0]!r}, beside which the server lays its own; take another name.")
    try:
        decoded = msgspec.json.decode(msgspec.json.encode(answer))
    except Exception as e:
        raise Broken(f"{method}() gives what JSON cannot hold: {told(e)}.") from e
    difference = _difference(answer, decoded)
    if difference:
        raise Broken(f"{method}() gives what JSON cannot hold: {difference} (NaN and infinity have no place in it).")


def _difference(a: Any, b: Any, where: str = "") -> str | None:
    """Where two JSON values differ by more than rounding, in words; `None` when they do not."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return next((d for key in a if (d := _difference(a[key], b[key], f"{where}.{key}"))), None)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next(
            (d for i, (x, y) in enumerate(zip(a, b, strict=True)) if (d := _difference(x, y, f"{where}[{i}]"))), None
        )
    if isinstance(a, float) and isinstance(b, int | float) and math.isclose(a, b, rel_tol=_CLOSE, abs_tol=_CLOSE / 10):
        return None
    if type(a) is type(b) and a == b:
        return None
    return f"{where.lstrip('.') or 'it'} is {_short(b)} instead of {_short(a)}"


def _variants(body: Body) -> Iterator[Body]:
    """Requests like `body`: were all requests of a batch the same, a mix-up would not show."""
    for i in (1, 2):
        yield {key: _vary(value, i) for key, value in body.items()}


def _vary(value: Any, i: int) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return value + i
    if isinstance(value, str):
        words = value.split()
        return value if len(value) > _LONG else " ".join([*reversed(words), *words[:i]])
    if isinstance(value, list):
        return [_vary(each, i) for each in value]
    return {key: _vary(each, i) for key, each in value.items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


CHECKS = (
    Check("its example is answered", ValueBackend, the_example_is_answered),
    Check("a batch is answered as one by one", ValueBackend, a_batch_is_answered_as_one_by_one),
    Check("a bad body fails alone", ValueBackend, a_bad_body_fails_alone),
    Check("a stream gives objects, and can be left", ValueBackend, a_stream_gives_objects_and_can_be_left),
)
