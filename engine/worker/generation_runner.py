"""Generated answers of one model: each step of the backend advances all of them, and goes to the server as one message.

The request's chat template and grammar are applied when it starts, its parsers of tool calls and reasoning as its text
comes. All of that is on the model's thread, between two steps, so it has to be quick.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import msgspec

from backends.base import GenerationInfo, InvalidInput
from backends.generation import Generation, GenerationBackend, Piece, Usage
from engine.generation.output import OutputParser, Parsed
from engine.generation.prepare import Prepared, prepare
from engine.generation.template import ChatTemplate
from engine.transport.channel import Channel
from engine.transport.generation import Delta, FinishReason, decode_request, encode_deltas
from engine.transport.messages import CancelStream, Chunk, StartStream, StepDone, StreamEnd, encode
from engine.worker.answers import describe
from engine.worker.gate import ModelGate

log = logging.getLogger("unimodel.worker")


@dataclass(slots=True)
class _Choice:
    """One answer on its way."""

    parser: OutputParser
    whole: Delta
    """What has come of an answer that is sent whole."""
    reasoning_tokens: int = 0
    text: str = ""
    """All that was generated, if the request wants its context back."""


@dataclass(slots=True)
class _Request:
    """One request on its way."""

    request_id: str
    streamed: bool
    choices: list[_Choice]
    left: int
    """Choices that have not ended."""
    context: list[int] | None = None
    """The tokens of its prompt, if it wants them back with those of the answer."""
    begun: bool = False
    deltas: list[Delta] = field(default_factory=list)
    """Of this step."""


class GenerationRunner:
    """Owns the requests that one model is generating answers to."""

    def __init__(
        self,
        backend: GenerationBackend,
        info: GenerationInfo,
        template: ChatTemplate | None,
        channel: Channel,
        gate: ModelGate,
    ) -> None:
        self._backend = backend
        self._info = info
        self._template = template
        self._channel = channel
        self._gate = gate
        self._open: dict[int, _Request] = {}

    @property
    def busy(self) -> bool:
        """Whether any answer is under way."""
        return self._backend.busy

    def start(self, message: StartStream) -> None:
        """Takes in a request. Its first deltas come with the next steps."""
        try:
            request = decode_request(message.body)
            prepared = prepare(request, self._template, self._info)
            if request.count_only:
                self._count(message.id, prepared)
                return
            generation = prepared.generation
            if request.context or request.return_context:
                generation = self._continued(request.context, generation)
            opened = self._open[message.id] = self._request(message.request_id, request.stream, prepared)
            if request.return_context:
                opened.context = list(map(int, generation.prompt))
            self._backend.add(message.id, generation)
        except Exception as e:
            self._open.pop(message.id, None)
            self._channel.send(encode(StreamEnd(message.id, describe(e, message.request_id))))

    @staticmethod
    def _request(request_id: str, streamed: bool, prepared: Prepared) -> _Request:
        count = prepared.generation.choices
        choices = [_Choice(prepared.parser(), Delta(choice=i)) for i in range(count)]
        return _Request(request_id, streamed, choices, count)

    def _continued(self, context: list[int], generation: Generation) -> Generation:
        """The request with its prompt in tokens, behind those of the conversation so far. Raises `InvalidInput`."""
        text = generation.prompt
        if not isinstance(text, str) or generation.images or generation.suffix is not None:
            raise InvalidInput("A context goes on with text alone, not with images or a suffix.", field="context")
        if context and text.count(self._info.bos) == 1:  # else it is also what begins each turn
            text = text.removeprefix(self._info.bos)
        tokens = self._backend.tokenize(text, add_bos=generation.add_bos and not context)
        return msgspec.structs.replace(generation, prompt=(*context, *tokens), add_bos=False)

    def _count(self, stream_id: int, prepared: Prepared) -> None:
        tokens = self._backend.count(prepared.generation)
        chunk = Chunk(stream_id, encode_deltas([Delta(finish="stop", usage=Usage(prompt_tokens=tokens))]))
        self._channel.send(encode(StepDone([chunk], [StreamEnd(stream_id)])))

    def cancel(self, message: CancelStream) -> None:
        """Drops a request whose client went away, and says so, unless its end was told already."""
        if self._open.pop(message.id, None) is not None:
            self._backend.cancel(message.id)
            self._channel.send(encode(StreamEnd(message.id)))

    def step(self) -> None:
        """Computes once, and sends what that added."""
        with self._gate.turn(self._backend.threads):
            pieces = self._backend.step()
        touched: dict[int, _Request] = {}
        ends: list[StreamEnd] = []
        for piece in pieces:
            request = self._open.get(piece.id)
            if request is None:
                continue
            if piece.error is not None:
                ends.append(StreamEnd(piece.id, describe(piece.error, request.request_id)))
                del self._open[piece.id]
                touched.pop(piece.id, None)
                continue
            touched[piece.id] = request
            try:
                self._take(request, piece)
            except Exception as e:  # a parser's own mistake; the other answers go on
                ends.append(StreamEnd(piece.id, describe(e, request.request_id)))
                del self._open[piece.id], touched[piece.id]
                self._backend.cancel(piece.id)
                continue
            if not request.left:
                ends.append(StreamEnd(piece.id))
                del self._open[piece.id]
        chunks = [chunk for stream_id, r in touched.items() if (chunk := _chunk(stream_id, r)) is not None]
        if chunks or ends:
            self._channel.send(encode(StepDone(chunks, ends)))

    def _take(self, request: _Request, piece: Piece) -> None:
        choice = request.choices[piece.choice]
        thought = choice.parser.thinks
        if request.context is not None:
            choice.text += piece.text
        parsed = choice.parser.feed(piece.text) if piece.text else Parsed()
        if thought and choice.parser.thinks:  # else there was the mark that ends them
            choice.reasoning_tokens += piece.tokens
        if piece.finish is not None:
            last = choice.parser.finish()
            parsed = Parsed(
                parsed.content + last.content,
                parsed.reasoning + last.reasoning,
                [*parsed.tool_calls, *last.tool_calls],
            )
            request.left -= 1
        delta = Delta(
            choice=piece.choice,
            content=parsed.content,
            reasoning=parsed.reasoning,
            tool_calls=parsed.tool_calls,
            logprobs=list(piece.logprobs),
            tokens=piece.tokens,
            finish=_finish(piece, choice.parser),
            stop_text=piece.stop_text,
            usage=_usage(piece, choice),
        )
        if piece.finish is not None and request.context is not None:
            delta.context = request.context + self._backend.tokenize(choice.text, add_bos=False)
        if request.streamed:
            if _says_something(delta):
                request.deltas.append(delta)
        else:
            _append(choice.whole, delta)
            if piece.finish is not None:
                request.deltas.append(choice.whole)


def _finish(piece: Piece, parser: OutputParser) -> FinishReason | None:
    if piece.finish == "stop" and parser.called:
        return "tool_calls"
    return piece.finish


def _usage(piece: Piece, choice: _Choice) -> Usage | None:
    if piece.usage is None or not choice.reasoning_tokens:
        return piece.usage
    return msgspec.structs.replace(piece.usage, reasoning_tokens=choice.reasoning_tokens)


def _says_something(delta: Delta) -> bool:
    return bool(delta.content or delta.reasoning or delta.tool_calls or delta.logprobs or delta.finish)


def _append(whole: Delta, more: Delta) -> None:
    whole.content += more.content
    whole.reasoning += more.reasoning
    whole.tool_calls = [*whole.tool_calls, *more.tool_calls]
    whole.logprobs = [*whole.logprobs, *more.logprobs]
    whole.tokens += more.tokens
    if more.finish is not None:
        whole.finish, whole.stop_text, whole.usage, whole.context = (
            more.finish,
            more.stop_text,
            more.usage,
            more.context,
        )


def _chunk(stream_id: int, request: _Request) -> Chunk | None:
    """What a request gets of this step; empty to say that its answer, which comes whole, has begun."""
    deltas, request.deltas = request.deltas, []
    if deltas:
        request.begun = True
        return Chunk(stream_id, encode_deltas(deltas))
    if not request.begun:
        request.begun = True
        return Chunk(stream_id, b"")
    return None
