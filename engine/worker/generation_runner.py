"""Generated answers of one model.

The request's chat template and grammar are applied when it starts, its parsers of tool calls and reasoning as its text
comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from backends.base import GenerationInfo, InvalidInput
from backends.generation import Generation, GenerationBackend, Piece, Usage
from engine.generation.output import OutputParser, Parsed
from engine.generation.prepare import Prepared, prepare
from engine.generation.template import ChatTemplate
from engine.transport.channel import Channel
from engine.transport.generation import Delta, FinishReason, decode_request, encode_deltas
from engine.transport.messages import Chunk, StartStream, StepDone, StreamEnd, encode
from engine.worker.gate import ModelGate
from engine.worker.step_runner import OpenRequest, StepRunner


@dataclass(slots=True)
class _Choice:
    """One answer on its way."""

    parser: OutputParser
    whole: Delta
    """What has come of an answer that is sent whole."""
    reasoning_tokens: int = 0
    text: str = ""
    """All that was generated, if the request wants its context back."""


@dataclass(slots=True, kw_only=True)
class _Request(OpenRequest):
    """One request on its way."""

    choices: list[_Choice]
    context: list[int] | None = None
    """The tokens of its prompt, if it wants them back with those of the answer."""


class GenerationRunner(StepRunner[_Request, Piece]):
    """Owns the requests that one model is generating answers to."""

    def __init__(
        self,
        backend: GenerationBackend,
        info: GenerationInfo,
        template: ChatTemplate | None,
        channel: Channel,
        gate: ModelGate,
    ) -> None:
        super().__init__(backend, channel, gate)
        self._backend = backend
        self._info = info
        self._template = template

    def _begin(self, message: StartStream) -> _Request | None:
        request = decode_request(message.body)
        prepared = prepare(request, self._template, self._info)
        if request.count_only:
            self._count(message.id, prepared)
            return None
        generation = prepared.generation
        if request.context or request.return_context:
            generation = self._continued(request.context, generation)
        opened = self._request(message.request_id, request.stream, prepared)
        if request.return_context:
            opened.context = list(map(int, generation.prompt))
        self._backend.add(message.id, generation)
        return opened

    @staticmethod
    def _request(request_id: str, streamed: bool, prepared: Prepared) -> _Request:
        count = prepared.generation.choices
        choices = [_Choice(prepared.parser(), Delta(choice=i)) for i in range(count)]
        return _Request(request_id=request_id, streamed=streamed, left=count, choices=choices)

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
