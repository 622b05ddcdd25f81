"""Generated answers through the worker's runner, from the server's messages to the server's deltas."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.base import Device, GenerationInfo, InvalidInput, Match, ModelInfo, OutOfMemory
from backends.generation import Generation, GenerationBackend, Piece, Usage
from engine.generation.output import OutputParser, Parsed
from engine.generation.template import ChatTemplate
from engine.transport.channel import Channel
from engine.transport.generation import Delta, GenerateRequest, Message, decode_deltas, encode_request
from engine.transport.messages import CancelStream, StartStream, StepDone, StreamEnd, decode_batch_up
from engine.worker.gate import Gate, ModelGate
from engine.worker.generation_runner import GenerationRunner

INFO = GenerationInfo(context_length=64, sequences=4, bos="<s>")


THINKS = "{% if false %}<think></think>{% endif %}"
"""Tells that a template knows thoughts."""
CHANNELS = "{% if false %}<|channel|>analysis{% endif %}{{ messages[0].content }}<|start|>assistant"


class Scripted(GenerationBackend):
    """Gives out, step by step, the pieces that a test put in."""

    name = "scripted"
    summary = "for tests"

    def __init__(self) -> None:
        self.requests: dict[int, Generation] = {}
        self.steps: deque[list[Piece]] = deque()

    @classmethod
    def sniff(cls, path: Path) -> Match:
        return Match(0.0)

    def load(self, path: Path, device: Device, options: Any) -> ModelInfo:
        return ModelInfo(task="completion", generation=INFO)

    def example(self) -> Generation:
        return Generation(prompt="a", max_tokens=1)

    def add(self, request_id: int, request: Generation) -> None:
        if request.prompt == "too long":
            raise InvalidInput("The prompt has 99 tokens, and the context 64.", field="prompt")
        self.requests[request_id] = request

    def step(self) -> list[Piece]:
        return self.steps.popleft()

    def cancel(self, request_id: int) -> None:
        del self.requests[request_id]

    @property
    def busy(self) -> bool:
        return bool(self.requests)

    def count(self, request: Generation) -> int:
        return len(request.prompt) + request.add_bos

    def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        return [0] * add_bos + [ord(c) for c in text]


class Bench:
    """A runner, and the server's end of its channel."""

    def __init__(self, template: str | None = None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.backend = Scripted()
        self.server = Channel(ours)
        self.queue = Channel(theirs)
        self.runner = GenerationRunner(
            self.backend,
            INFO,
            None if template is None else ChatTemplate(template, "", ""),
            self.queue,
            ModelGate(Gate(1)),
        )

    def start(self, number: int = 1, prompt: str = "hello", **wishes: Any) -> None:
        request = GenerateRequest(prompt=prompt, **wishes)
        self.runner.start(StartStream(number, f"id-{number}", encode_request(request)))

    def ask(self, text: str, **wishes: Any) -> None:
        """As `start`, with a conversation."""
        request = GenerateRequest(messages=[Message(role="user", content=text)], **wishes)
        self.runner.start(StartStream(1, "id-1", encode_request(request)))

    def step(self, *pieces: Piece) -> None:
        self.backend.steps.append(list(pieces))
        self.runner.step()

    def receive(self) -> Any:
        data = self.server.receive(block=False)
        return None if data is None else decode_batch_up(data)

    def received(self) -> tuple[dict[int, list[Delta] | None], list[StreamEnd]]:
        message = self.receive()
        assert isinstance(message, StepDone)
        deltas = {c.id: decode_deltas(c.data) if c.data else None for c in message.chunks}
        return deltas, message.ends


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.server.close()
    made.queue.close()


USAGE = Usage(prompt_tokens=3, completion_tokens=2)


def test_a_streamed_answer_comes_piece_by_piece(bench: Bench) -> None:
    bench.start(stream=True)
    assert bench.runner.busy
    bench.step(Piece(id=1, text="Hel", tokens=1))
    assert bench.received() == ({1: [Delta(content="Hel", tokens=1)]}, [])
    bench.step(Piece(id=1, text="lo", tokens=1, finish="stop", stop_text="!", usage=USAGE))
    last = Delta(content="lo", tokens=1, finish="stop", stop_text="!", usage=USAGE)
    assert bench.received() == ({1: [last]}, [StreamEnd(1)])


def test_an_answer_that_is_not_streamed_comes_whole_after_a_sign_of_life(bench: Bench) -> None:
    bench.start()
    bench.step(Piece(id=1, text="Hel", tokens=1))
    assert bench.received() == ({1: None}, [])
    bench.step(Piece(id=1, text="l", tokens=1))
    assert bench.receive() is None
    bench.step(Piece(id=1, text="o", tokens=1, finish="length", usage=USAGE))
    assert bench.received() == ({1: [Delta(content="Hello", tokens=3, finish="length", usage=USAGE)]}, [StreamEnd(1)])


def test_all_answers_of_a_step_go_in_one_message(bench: Bench) -> None:
    bench.start(1, stream=True)
    bench.start(2, stream=True)
    bench.step(Piece(id=1, text="a"), Piece(id=2, text="b"))
    assert bench.received() == ({1: [Delta(content="a")], 2: [Delta(content="b")]}, [])
    assert bench.receive() is None


def test_pieces_without_text_are_not_sent(bench: Bench) -> None:
    bench.start(stream=True)
    bench.step(Piece(id=1, text="a", tokens=1))
    bench.received()
    bench.step(Piece(id=1, tokens=1))  # half a character
    assert bench.receive() is None


def test_a_request_ends_with_its_last_choice(bench: Bench) -> None:
    bench.start(choices=2, stream=True)
    assert bench.backend.requests[1].choices == 2
    bench.step(Piece(id=1, choice=1, text="b", finish="stop", usage=USAGE))
    assert bench.received() == ({1: [Delta(choice=1, content="b", finish="stop", usage=USAGE)]}, [])
    bench.step(Piece(id=1, choice=0, text="a", finish="stop", usage=USAGE))
    deltas, ends = bench.received()
    assert deltas == {1: [Delta(content="a", finish="stop", usage=USAGE)]}
    assert ends == [StreamEnd(1)]


def test_a_request_that_the_model_refuses_ends_alone(bench: Bench) -> None:
    bench.start(1, stream=True)
    bench.start(2, prompt="too long")
    message = bench.receive()
    assert isinstance(message, StreamEnd)
    assert message.error is not None
    assert (message.id, message.error.code, message.error.field) == (2, "invalid_input", "prompt")
    bench.step(Piece(id=1, text="a"))
    assert bench.received() == ({1: [Delta(content="a")]}, [])


def test_an_error_in_a_step_ends_its_request_alone(bench: Bench) -> None:
    bench.start(1, stream=True)
    bench.start(2, stream=True)
    bench.step(Piece(id=2, text="b"), Piece(id=2, error=OutOfMemory("No room.")), Piece(id=1, text="a"))
    deltas, ends = bench.received()
    assert deltas == {1: [Delta(content="a")]}
    assert [(e.id, e.error and e.error.code) for e in ends] == [(2, "insufficient_memory")]


def test_an_answer_that_cannot_be_read_ends_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(self: OutputParser, text: str) -> Parsed:
        if text == "b":
            raise ValueError("a mistake of the parser")
        return Parsed(text)

    monkeypatch.setattr(OutputParser, "feed", feed)
    bench.start(1, stream=True)
    bench.start(2, stream=True)
    bench.step(Piece(id=2, text="b"), Piece(id=1, text="a"), Piece(id=2, text="c"))
    deltas, ends = bench.received()
    assert deltas == {1: [Delta(content="a")]}
    assert [(e.id, e.error and e.error.code) for e in ends] == [(2, "model_error")]
    assert list(bench.backend.requests) == [1]


def test_a_cancelled_request_is_dropped_by_the_backend(bench: Bench) -> None:
    bench.start(1, stream=True)
    bench.start(2, stream=True)
    bench.runner.cancel(CancelStream(1))
    bench.runner.cancel(CancelStream(7))
    assert list(bench.backend.requests) == [2]
    assert bench.receive() == StreamEnd(1)
    assert bench.receive() is None, "of one that is unknown, the end was told"
    bench.step(Piece(id=1, text="too late"), Piece(id=2, text="b"))
    assert bench.received() == ({2: [Delta(content="b")]}, [])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("template", "pieces", "counted"),
    [
        (f"{THINKS}{{{{ messages[0].content }}}}", "<think> a b ! </think> c", 3),
        (f"{THINKS}{{{{ messages[0].content }}}}<think>", "a b </think> c d", 2),
        (f"{THINKS}{{{{ messages[0].content }}}}<think>", "never ends", 2),
        (f"{THINKS}{{{{ messages[0].content }}}}", "no thoughts", 0),
        (
            CHANNELS,
            "<|channel|> analysis <|message|> a b <|end|> <|start|> assistant <|channel|> final <|message|> c",
            2,
        ),
        ("{{ messages[0].content }}", "<think> a </think> c", 0),
    ],
)
def test_the_tokens_of_thoughts_are_counted(template: str, pieces: str, counted: int, stream: bool) -> None:
    bench = Bench(template)
    bench.ask("hello", stream=stream)
    words = pieces.split()
    usage = Usage(prompt_tokens=1, completion_tokens=len(words) + 1)
    for word in words:
        bench.step(Piece(id=1, text=word, tokens=1))
    bench.step(Piece(id=1, tokens=1, finish="length", usage=usage))
    last = None
    while (message := bench.receive()) is not None:
        last = message
    assert isinstance(last, StepDone)
    (delta,) = decode_deltas(last.chunks[0].data)
    never_ended = pieces == "never ends"  # then the last token, which has no text, is a thought, too
    assert delta.usage is not None
    assert delta.usage == msgspec.structs.replace(usage, reasoning_tokens=counted + never_ended)
    bench.server.close()
    bench.queue.close()


def tokens(text: str) -> list[int]:
    return [ord(c) for c in text]


@pytest.mark.parametrize("stream", [True, False])
def test_a_context_comes_back_and_goes_on(bench: Bench, stream: bool) -> None:
    bench.start(prompt="Hi", return_context=True, stream=stream)
    assert bench.backend.requests[1].prompt == (0, *tokens("Hi"))
    bench.step(Piece(id=1, text="Hel", tokens=1), Piece(id=1, text="lo", tokens=1, finish="stop", usage=USAGE))
    deltas, _ = bench.received()
    assert deltas[1] is not None
    context = deltas[1][-1].context
    assert context == [0, *tokens("HiHello")]
    bench.start(2, prompt="<s>Bye", context=context, stream=stream)
    assert bench.backend.requests[2].prompt == (*context, *tokens("Bye")), "there is one beginning"
    assert not bench.backend.requests[2].add_bos
    bench.start(3, prompt="<s>you<s>me", context=context)
    assert bench.backend.requests[3].prompt == (*context, *tokens("<s>you<s>me")), "but each turn has its own"
    bench.runner.cancel(CancelStream(3))
    assert bench.receive() == StreamEnd(3)
    bench.step(Piece(id=2, text="!", tokens=1, finish="stop", usage=USAGE))
    assert bench.received()[0] == {2: [Delta(choice=0, content="!", tokens=1, finish="stop", usage=USAGE)]}


def test_a_context_goes_on_with_text_alone(bench: Bench) -> None:
    bench.start(prompt=[1, 2], context=[3])  # type: ignore[arg-type]
    message = bench.receive()
    assert isinstance(message, StreamEnd)
    assert message.error is not None
    assert (message.error.code, message.error.field) == ("invalid_input", "context")


def test_counting_tokens_computes_nothing(bench: Bench) -> None:
    bench.start(prompt="four", count_only=True)
    deltas, ends = bench.received()
    assert deltas == {1: [Delta(finish="stop", usage=Usage(prompt_tokens=5))]}
    assert ends == [StreamEnd(1)]
    assert not bench.runner.busy


def test_a_message_that_is_no_request_is_the_servers_fault_and_ends_its_stream(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.runner.start(StartStream(3, "id-3", b"\xc1"))
    message = bench.receive()
    assert isinstance(message, StreamEnd)
    assert message.error is not None
    assert message.error.code == "model_error"
    assert "id-3" in {getattr(r, "request_id", "") for r in caplog.records}
    caplog.clear()
