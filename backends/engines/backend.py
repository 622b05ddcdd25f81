"""What backends on engines that batch by themselves have in common.

An engine gets tokens and gives tokens; each choice is a request of its own to it, which shares what was computed of the
prompt. Texts, stop texts, log probabilities and counts are made here, as for every other model that generates.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec

from backends.answers import Answer
from backends.base import BackendError, InvalidInput, InvalidOption
from backends.engines.streams import Output, Streams
from backends.generation import Generation, GenerationBackend, Piece, TokenLogprob, Usage
from backends.prompts import bounded, check_features, fitted
from backends.sampling import COLD, SamplingDefaults, check_request, check_sampling, resolve, seed_of, window_of
from backends.transformers.folder import Folder
from backends.transformers.library import Library
from backends.transformers.settings import SamplingOptions, defaults_of
from backends.transformers.tokens import Tokenizer
from backends.transformers.vocabulary import Vocabulary

_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|.)", re.DOTALL)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is asked for one choice."""

    sampling: SamplingDefaults
    """Its penalties look back on everything."""
    most: int
    """Tokens of the answer."""
    ends: tuple[int, ...] = ()
    """Tokens that end the answer."""
    banned: tuple[int, ...] = ()
    """Tokens that are never chosen."""
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    logprobs: int | None = None
    """Alternatives that are told with each token."""
    grammar: str | None = None
    """In GBNF."""

    @property
    def greedy(self) -> bool:
        """Whether always the likeliest token is chosen."""
        return self.sampling.temperature < COLD or self.sampling.top_p == 0


class Engine(ABC):
    """A running engine. All but `params` and `error` is called on its event loop."""

    name: str
    """For messages."""

    @abstractmethod
    def params(self, wanted: Wanted) -> Any:
        """What is wanted, in the engine's own terms. Raises `InvalidInput`."""

    @abstractmethod
    def generate(self, name: str, prompt: list[int], params: Any) -> AsyncGenerator[Output, None]:
        """The tokens of one choice. Closing it ends the choice in the engine, too."""

    @abstractmethod
    def error(self, error: Exception) -> BackendError:
        """What went wrong with a request."""

    @property
    def dead(self) -> bool:
        """Whether it has ended, and a new one must be started."""
        return False

    async def answers(self) -> None:
        """Returns when the engine has answered a question, as it does between two of its steps. One that cannot be
        asked never does: that it does not hang shows in its tokens alone."""
        await asyncio.Event().wait()

    @abstractmethod
    async def close(self) -> None:
        """Ends its processes."""


@dataclass(slots=True)
class _Choice:
    """One answer on its way."""

    answer: Answer
    tokens: int = 0
    cached: int = 0
    first: float = 0.0
    last: float = 0.0


@dataclass(slots=True)
class _Request:
    """One request on its way."""

    asked: Generation
    prompt: list[int]
    begun: float
    choices: list[_Choice]


class EngineBackend(GenerationBackend):
    """Owns an engine, and the answers that it is generating. `load` ends with `_serve`."""

    out_of_process = True
    _engine: Engine | None = None
    _streams: Streams | None = None
    _vocabulary: Vocabulary
    _defaults: SamplingDefaults
    _length: int
    """Tokens of one sequence."""
    _longest_prompt: int

    def _serve(
        self,
        engine: Engine,
        streams: Streams,
        vocabulary: Vocabulary,
        defaults: SamplingDefaults,
        *,
        length: int,
        longest_prompt: int | None = None,
    ) -> None:
        """Takes over a running engine. Raises `InvalidOption` for defaults that it cannot follow."""
        self._engine, self._streams = engine, streams
        self._vocabulary, self._defaults = vocabulary, defaults
        self._length = length
        self._longest_prompt = longest_prompt or length
        self._requests: dict[int, _Request] = {}
        try:
            engine.params(Wanted(sampling=check_penalties(defaults, engine.name), most=1))
        except InvalidInput as e:
            self.close()
            field = f"config.sampling.{e.field}" if e.field else "config.sampling"
            raise InvalidOption(e.message, field=field) from None
        streams.watch(engine.answers)

    def add(self, request_id: int, request: Generation) -> None:
        vocabulary, engine, streams = self._vocabulary, self._running, self._pump
        check_request(request, vocabulary.vocab_size)
        check_features(request, self._running.name)
        request = bounded(request, self._length, lambda: vocabulary.longest_token)
        prompt = fitted(vocabulary.prompt_of(request), request, self._length, vocabulary.bos)
        if len(prompt) > self._longest_prompt:
            raise InvalidInput(
                f"The prompt has {len(prompt)} tokens; the engine was built for {self._longest_prompt} at most "
                "(max_input_len). Shorten it.",
                field="prompt",
            )
        most = min(self._length - len(prompt), request.max_tokens or self._length)
        chosen = resolve(request.sampling, self._defaults)
        check_sampling(chosen, "", InvalidInput)
        chosen = check_penalties(chosen, engine.name)
        ends = tuple(vocabulary.end_tokens.tolist())
        wanted = Wanted(
            sampling=chosen,
            most=most,
            ends=request.stop_tokens if request.ignore_eos else tuple(sorted({*ends, *request.stop_tokens})),
            banned=tuple(set(ends) - set(request.stop_tokens)) if request.ignore_eos else (),
            logit_bias=request.sampling.logit_bias,
            logprobs=request.logprobs,
            grammar=None if request.grammar is None else portable(request.grammar),
        )
        seeded = request.sampling.seed is not None  # else the engine draws for all together, which is faster
        params = [
            engine.params(msgspec.structs.replace(wanted, seed=seed_of(request.sampling, choice)) if seeded else wanted)
            for choice in range(request.choices)
        ]
        choices = [_Choice(Answer(request, vocabulary, most)) for _ in params]
        self._requests[request_id] = _Request(request, prompt, time.perf_counter(), choices)
        for choice, each in enumerate(params):
            streams.open((request_id, choice), partial(engine.generate, f"{request_id}-{choice}", prompt, each))

    def wait(self, seconds: float) -> bool:
        return self._pump.wait(seconds)

    def step(self) -> list[Piece]:
        pieces: list[Piece] = []
        for (request_id, choice), what in self._pump.take():
            request = self._requests.get(request_id)
            if request is None or request.choices[choice].answer.finish is not None:
                continue  # it was cancelled, or had ended by a stop text that the engine does not know
            if isinstance(what, Exception):
                if self._running.dead:  # the model is loaded anew, and what has not begun is asked again
                    raise RuntimeError(f"The engine of {self._running.name} has died.") from what
                self.cancel(request_id)
                pieces = [piece for piece in pieces if piece.id != request_id]
                pieces.append(Piece(id=request_id, error=self._problem(what)))
                continue
            piece = Piece(id=request_id, choice=choice)
            self._take(request, request.choices[choice], what, piece)
            pieces.append(piece)
            if piece.finish is not None:
                if not what.finished:
                    self._pump.cancel((request_id, choice))
                if all(each.answer.finish is not None for each in request.choices):
                    del self._requests[request_id]
        return pieces

    def cancel(self, request_id: int) -> None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            for choice, each in enumerate(request.choices):
                if each.answer.finish is None:
                    self._pump.cancel((request_id, choice))

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    def count(self, request: Generation) -> int:
        check_features(request, self._running.name)
        return len(self._vocabulary.prompt_of(request))

    def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        vocabulary = self._vocabulary
        return vocabulary.begun(vocabulary.tokenize(text), add_bos and vocabulary.wants_bos)

    def close(self) -> None:
        """Ends the engine's processes, and the thread that listens to them."""
        if self._streams is not None:
            if self._engine is not None:
                self._streams.run(self._engine.close())
            self._streams.close()
        self._engine = self._streams = None

    def _take(self, request: _Request, choice: _Choice, output: Output, piece: Piece) -> None:
        """Adds tokens to an answer, until it ends."""
        choice.last = time.perf_counter()
        choice.first = choice.first or choice.last
        choice.cached = max(choice.cached, output.cached)
        for i, token in enumerate(output.tokens):
            told = None
            if request.asked.logprobs is not None and output.logprobs is not None:
                told = self._logprob(token, output.logprobs[i], request.asked.logprobs)
            choice.answer.take(token, told, piece)
            choice.tokens += 1
            if choice.answer.finish is not None:
                break
        if output.finished and choice.answer.finish is None:
            choice.answer.stop()  # such as by a grammar that is complete
        choice.answer.complete(piece)
        if piece.finish is not None:
            piece.usage = Usage(
                prompt_tokens=len(request.prompt),
                cached_tokens=choice.cached,
                completion_tokens=choice.tokens,
                prompt_seconds=choice.first - request.begun,
                generation_seconds=choice.last - choice.first,
            )

    def _logprob(self, token: int, found: Mapping[int, float], alternatives: int) -> TokenLogprob:
        read = self._vocabulary.token_bytes
        best = sorted(found, key=lambda each: (-found[each], each))[:alternatives]
        top = tuple(TokenLogprob(each, read(each, True), found[each]) for each in best)
        return TokenLogprob(token, read(token, True), found[token], top)

    def _problem(self, error: Exception) -> BackendError:
        return error if isinstance(error, BackendError) else self._running.error(error)

    @property
    def _running(self) -> Engine:
        assert self._engine is not None, "load comes first"
        return self._engine

    @property
    def _pump(self) -> Streams:
        assert self._streams is not None, "load comes first"
        return self._streams


def vocabulary_of(library: Library, folder: Folder, size: int, *, trusted: bool) -> tuple[Vocabulary, Any]:
    """The vocabulary of a folder with a tokenizer, for a network of so many tokens, and the tokenizer itself."""
    tokenizer = Tokenizer(library, folder, trusted=trusted)
    said = [
        SimpleNamespace(eos_token_id=each.get("eos_token_id"))
        for each in (folder.config, folder.read("generation_config.json"))
    ]
    return Vocabulary(tokenizer, size, *said), tokenizer.inner


def engine_defaults(folder: Folder, given: SamplingOptions) -> SamplingDefaults:
    """How tokens are chosen where a request does not say: as everywhere, but that penalties look back on everything."""
    defaults = defaults_of(folder, given)
    return defaults if given.repeat_last_n is not None else msgspec.structs.replace(defaults, repeat_last_n=-1)


def logprobs_of(places: Sequence[Mapping[int, Any]]) -> list[dict[int, float]]:
    """What both engines tell of tokens, of each by itself: an object with its `logprob`."""
    return [{token: each.logprob for token, each in place.items()} for place in places]


def portable(grammar: str) -> str:
    r"""A grammar in GBNF with ``\u0022`` for ``\x22``: others than llama.cpp read more than two digits behind an x."""
    return _ESCAPE.sub(lambda found: f"\\u00{found[1]}" if found[1] else found[0], grammar)


def check_penalties(chosen: SamplingDefaults, engine: str) -> SamplingDefaults:
    """How tokens are chosen, with penalties that look back on everything or do nothing.

    Raises `InvalidInput` for what no engine here can do.
    """
    if chosen.typical_p < 1:
        raise InvalidInput(f"{engine} has no typical_p; leave it out.", field="typical_p")
    window = window_of(chosen)
    if 0 < window < 2**31:
        raise InvalidInput(
            f"The penalties of {engine} look back on everything; repeat_last_n must be -1 or left out, "
            f"got {chosen.repeat_last_n}.",
            field="repeat_last_n",
        )
    if window:
        return chosen
    return msgspec.structs.replace(chosen, repeat_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
