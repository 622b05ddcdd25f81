"""Tests of the text of an answer: whole characters, stop texts across tokens, whatever the cuts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.text import TextStream


def run(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    """What comes out for each piece, and at the end, if no stop text ended it."""
    stream, out = TextStream(stops), []
    for piece in pieces:
        out.append(stream.push(piece))
        if stream.stopped_by is not None:
            return out, stream.stopped_by
    out.append(stream.finish())
    return out, stream.stopped_by


def test_plain_text_comes_out_at_once() -> None:
    assert run([b"Hello", b" world"]) == (["Hello", " world", ""], None)


@pytest.mark.parametrize("text", ["é", "日本語", "👍🏽 ok", "a\u0301"])
def test_a_character_waits_for_its_last_byte(text: str) -> None:
    out, _ = run([bytes([b]) for b in text.encode()])
    assert "".join(out) == text
    assert "\ufffd" not in "".join(out)


def test_bytes_that_never_become_a_character_are_replaced_at_the_end() -> None:
    assert run([b"ok ", "日".encode()[:2]]) == (["ok ", "", "\ufffd"], None)


def test_bytes_that_cannot_begin_a_character_are_replaced_at_once() -> None:
    assert run([b"a\x80b"]) == (["a\ufffdb", ""], None)


def test_a_stop_text_ends_the_answer_before_it() -> None:
    assert run([b"one", b"END", b"more"], ("END",)) == (["one", ""], "END")


def test_a_stop_text_across_tokens_does_not_leak() -> None:
    assert run([b"one E", b"N", b"D two"], ("END",)) == (["one ", "", ""], "END")


def test_what_only_began_like_a_stop_text_comes_out_after_all() -> None:
    assert run([b"one E", b"N", b"Xy"], ("END",)) == (["one ", "", "ENXy", ""], None)


def test_what_begins_like_a_stop_text_at_the_end_comes_out() -> None:
    assert run([b"one EN"], ("END",)) == (["one ", "EN"], None)


def test_a_stop_text_may_begin_within_what_looked_like_one() -> None:
    assert run([b"aab", b"aac"], ("aabaac", "baac")) == (["", ""], "aabaac")
    assert run([b"xaa", b"ab"], ("aab",)) == (["x", "a"], "aab")


def test_of_two_stop_texts_the_one_that_is_complete_first_counts() -> None:
    assert run([b"abcd"], ("abcd", "c")) == (["ab"], "c")
    assert run([b"abcd"], ("bcd", "abcd")) == ([""], "abcd")


def test_a_stop_text_of_several_bytes_a_character() -> None:
    raw = "Frage: 你好吗".encode()
    assert run([raw[:9], raw[9:12], raw[12:]], ("好",))[1] == "好"
    assert "".join(run([raw[:9], raw[9:12], raw[12:]], ("好",))[0]) == "Frage: 你"


def test_tokens_are_pending_until_their_text_is_out() -> None:
    stream = TextStream(("END",))
    pending = []
    for piece in (b"a", b"b E", b"N", b"x", "日".encode()[:1], "日".encode()[1:], b""):
        stream.push(piece)
        pending.append(stream.pending)
    assert pending == [0, 1, 2, 0, 1, 0, 0]


def test_tokens_of_a_stop_text_stay_pending() -> None:
    stream = TextStream(("END",))
    for piece in (b"a", b"EN", b"D"):
        stream.push(piece)
    assert stream.stopped_by == "END"
    assert stream.pending == 2


def test_at_the_end_nothing_is_pending() -> None:
    stream = TextStream(("END",))
    stream.push(b"EN")
    stream.finish()
    assert stream.pending == 0


@st.composite
def cut(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Bytes over a small alphabet, some of which are parts of characters, and the same in pieces."""
    whole = b"".join(draw(st.lists(st.sampled_from([b"a", b"b", b"ab", "é".encode(), b"\xc3", "日".encode()]))))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)))))
    return whole, [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


STOPS = st.lists(st.text("abé日", min_size=1, max_size=4), max_size=3).map(tuple)


@given(cut(), STOPS)
def test_the_cuts_make_no_difference(pieces: tuple[bytes, list[bytes]], stops: tuple[str, ...]) -> None:
    whole, parts = pieces
    out, stopped = run(parts, stops)
    one_by_one, stopped_one_by_one = run([bytes([b]) for b in whole], stops)
    assert "".join(out) == "".join(one_by_one)
    assert stopped == stopped_one_by_one


@given(cut(), STOPS)
def test_no_stop_text_is_ever_in_what_comes_out(pieces: tuple[bytes, list[bytes]], stops: tuple[str, ...]) -> None:
    whole, parts = pieces
    out, stopped = run(parts, stops)
    text = "".join(out)
    assert not any(stop in text for stop in stops)
    assert whole.decode("utf-8", "replace").startswith(text)
    if stopped is None:
        assert text == whole.decode("utf-8", "replace")
    else:
        assert whole.decode("utf-8", "replace").startswith(text + stopped)
