"""Headers, bodies and errors of the raw ASGI layer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from engine.api.http import (
    PRIORITIES,
    TIMEOUTS_MS,
    BodyBudget,
    Headers,
    Reservation,
    announced_length,
    as_known,
    disconnect_probe,
    error_body,
    error_headers,
    read_body,
    request_id,
    send_error,
)
from engine.errors import BY_CODE, BodyTooLarge, Cancelled, InvalidInput, InvalidRequest, Overloaded, UniModelError

MIB = 1 << 20

# -- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("-100", -100), ("007", 7), ("100", 100)])
def test_whole_numbers(text: str, value: int) -> None:
    assert Headers({b"x-n": text.encode()}).integer(b"x-n", -100, 100) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "1.0", "1e3", "0x10", "1_0", " 5", "+5", "--5", "²", "five", "101", "-101", "9" * 10, "9" * 100_000],
)
def test_what_is_no_whole_number_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as e:
        Headers({b"x-n": text.encode("latin-1")}).integer(b"x-n", -100, 100)
    assert e.value.field == "x-n"
    assert e.value.message.startswith("Header x-n must be a whole number from -100 to 100; got '")
    assert len(e.value.message) < 200


def test_a_header_that_is_missing_has_no_value() -> None:
    headers = Headers()
    assert headers.text(b"x-n") is None
    assert headers.integer(b"x-n", 1, 2) is None


def test_of_a_header_that_was_sent_twice_the_last_counts() -> None:
    assert Headers([(b"x", b"1"), (b"x", b"2")]).text(b"x") == "2"


def test_the_bounds_are_usable() -> None:
    assert PRIORITIES[0] < 0 < PRIORITIES[1]
    assert TIMEOUTS_MS[0] == 1
    assert TIMEOUTS_MS[1] >= 24 * 3600 * 1000


@pytest.mark.parametrize("given", [b"abc-123", b"x" * 128, b"a b", b"~"])
def test_a_clients_own_request_id_is_kept(given: bytes) -> None:
    assert request_id(Headers({b"x-request-id": given})) == given.decode()


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"caf\xe9", b"a\tb", b"a\nset-cookie: x", b"\0", b"\x7f"])
def test_one_that_could_do_harm_is_replaced(given: bytes) -> None:
    made = request_id(Headers({b"x-request-id": given}))
    assert made != given.decode("latin-1")
    assert made.isascii()
    assert made.isprintable()
    assert made


def test_made_request_ids_are_all_different() -> None:
    made = {request_id(Headers()) for _ in range(1000)}
    assert len(made) == 1000


# -- bodies -----------------------------------------------------------------------------------------------------------


def receiver(*messages: dict[str, Any]) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    left = list(messages)

    async def receive() -> MutableMapping[str, Any]:
        return left.pop(0)

    return receive


def piece(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([piece(b"whole")], b"whole"),
        ([{"type": "http.request"}], b""),
        ([piece(b"one ", True), piece(b"two ", True), piece(b"three")], b"one two three"),
        ([piece(b"", True), piece(b"x")], b"x"),
        ([piece(b"12345678", True), piece(b"90")], b"1234567890"),
    ],
)
async def test_a_body_is_read_whole(messages: list[dict[str, Any]], body: bytes) -> None:
    assert await read_body(receiver(*messages), 10 if len(body) < 11 else 20) == body


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([piece(b"x" * 11)], BodyTooLarge),
        ([piece(b"x" * 6, True), piece(b"x" * 5)], BodyTooLarge),
        ([piece(b"x" * 6, True), piece(b"x" * 5, True)], BodyTooLarge),
        ([GONE], Cancelled),
        ([piece(b"x", True), GONE], Cancelled),
    ],
)
async def test_a_body_that_is_too_large_or_never_comes(
    messages: list[dict[str, Any]], error: type[UniModelError]
) -> None:
    with pytest.raises(error):
        await read_body(receiver(*messages), 10)


async def test_whoever_watches_a_body_grow_can_stop_it() -> None:
    heard: list[int] = []

    def on_growth(length: int) -> None:
        heard.append(length)
        if length > 5:
            raise Overloaded("enough")

    with pytest.raises(Overloaded):
        await read_body(
            receiver(piece(b"123", True), piece(b"45", True), piece(b"6", True), piece(b"7")), 10, on_growth
        )
    assert heard == [5, 6]


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ({}, 0),
        ({b"content-length": b"10"}, 10),
        ({b"transfer-encoding": b"chunked"}, 0),
        ({b"content-length": b"-1"}, 0),
        ({b"content-length": b"ten"}, 0),
    ],
)
def test_the_announced_length(headers: dict[bytes, bytes], length: int) -> None:
    assert announced_length(Headers(headers), 10) == length


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes() -> None:
    with pytest.raises(BodyTooLarge) as e:
        announced_length(Headers({b"content-length": b"11"}), 10)
    assert (e.value.status, e.value.field) == (413, "body")
    assert "server.max_body_mb" in e.value.message


def test_large_bodies_share_a_budget_and_one_always_fits() -> None:
    budget = BodyBudget(10 * MIB)
    first, second, third = (Reservation(budget) for _ in range(3))
    first.cover(50 * MIB)
    with pytest.raises(Overloaded) as e:
        second.cover(MIB)
    assert "server.max_buffered_mb" in e.value.message
    second.cover(BodyBudget.LARGE)  # small ones do not count
    first.cover(60 * MIB)  # it grows alone
    first.release()
    second.cover(6 * MIB)
    third.cover(4 * MIB)
    with pytest.raises(Overloaded):
        third.cover(4 * MIB + 1)
    second.release()
    second.release()
    third.cover(10 * MIB)


async def test_whether_a_client_left_is_known_where_the_server_tells() -> None:
    class Cycle:
        disconnected = False

        async def receive(self) -> dict[str, Any]:
            return {}

    cycle = Cycle()
    probe = disconnect_probe(cycle.receive)
    assert probe is not None
    assert not probe()
    cycle.disconnected = True
    assert probe()
    assert disconnect_probe(receiver()) is None


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_input", "invalid_request_error"),
        ("model_not_found", "not_found_error"),
        ("overloaded", "overloaded_error"),
        ("deadline_exceeded", "server_error"),
        ("internal", "server_error"),
    ],
)
def test_an_error_has_its_code_and_its_kind(code: str, kind: str) -> None:
    body = error_body(BY_CODE[code]("It failed.", field="input.x", details={"a": 1}), "r1").error
    assert (body.code, body.type, body.message) == (code, kind, "It failed.")
    assert (body.param, body.request_id, body.details) == ("input.x", "r1", {"a": 1})


@pytest.mark.parametrize(("after", "told"), [(None, b"1"), (0.0, b"1"), (0.2, b"1"), (2.0, b"2"), (2.1, b"3")])
def test_an_overloaded_server_says_when_to_come_back(after: float | None, told: bytes) -> None:
    assert dict(error_headers(Overloaded("No.", retry_after=after), "r1"))[b"retry-after"] == told


def test_other_errors_promise_nothing() -> None:
    headers = dict(error_headers(InvalidInput("No."), "r1"))
    assert headers == {b"content-type": b"application/json", b"x-request-id": b"r1"}


def test_a_body_that_was_not_read_ends_the_connection() -> None:
    assert dict(error_headers(BodyTooLarge("No."), "r1"))[b"connection"] == b"close"


async def test_what_nobody_raised_on_purpose_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    with caplog.at_level(logging.ERROR):
        await send_error(send, RuntimeError("the secret"), "r1")
    assert sent[0]["status"] == 500
    assert b"secret" not in sent[1]["body"]
    assert b"r1" in sent[1]["body"]
    assert dict(sent[0]["headers"])[b"content-length"] == b"%d" % len(sent[1]["body"])
    assert "the secret" in caplog.text
    known = InvalidInput("No.")
    assert as_known(known, "r1") is known
