"""The span of one request to a model, and what is below it: its wait, and the batch that computed it.

Its times are those that the server measures anyway; a worker's come with its replies. The attributes of generated text
are those of OpenTelemetry's conventions for generative AI. Neither inputs nor outputs are among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.telemetry.tracing import Attributes, Span

if TYPE_CHECKING:
    from backends.generation import Usage
    from engine.transport.generation import GenerateRequest
    from engine.types import ModelSpec

OPERATIONS = {"embedding": "embeddings"}
"""What a call to a model of a task is called, if not ``predict``."""

_GENERATIVE = ("chat", "text_completion", "embeddings")
"""The operations that the conventions for generative AI are about."""


class ModelCall:
    """The span of a request to a model, from its admission to its ending."""

    __slots__ = ("_finished", "_span", "_tokens", "_waits_since")

    def __init__(self, span: Span, begin: float) -> None:
        self._span = span
        self._waits_since = begin
        self._tokens = 0
        """Of the answers that are whole."""
        self._finished: list[str] = []
        """How they ended."""

    @classmethod
    def begin(
        cls, above: Span | None, spec: ModelSpec, operation: str, begin: float, attributes: Attributes | None = None
    ) -> ModelCall | None:
        """A call that was admitted at `begin`; `None` if what it is a part of is not traced."""
        if above is None:
            return None
        about: dict[str, Any] = {
            "unimodel.model.name": spec.name,
            "unimodel.model.version": spec.version,
            "unimodel.model.backend": spec.backend,
            "unimodel.model.task": spec.task,
            **(attributes or {}),
        }
        if operation in _GENERATIVE:
            about |= {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "unimodel",
                "gen_ai.request.model": spec.name,
            }
        span = above.child(f"{operation} {spec.name}", about, begin)
        return None if span is None else cls(span, begin)

    def sent(self, worker: str, device: str, at: float | None = None) -> None:
        """It left the queue for a worker."""
        self._span.set({"unimodel.worker": worker, "unimodel.device": device})
        waited = self._span.child("queue", {}, self._waits_since)
        if waited is not None:
            waited.end(at)

    def waits_again(self, why: str) -> None:
        """It goes back into the queue, or ends, because of this: its worker died, or its batch was too large."""
        self._waits_since = self._span.now()
        self._span.event(why, at=self._waits_since)

    def first_token(self, seconds: float) -> None:
        """The first token was there, so long after the request came."""
        self._span.event("first token")
        self._span.set({"gen_ai.response.time_to_first_chunk": seconds})

    def generated(self, usage: Usage, finish: str | None) -> None:
        """An answer, or one of several that were asked for, is whole."""
        self._tokens += usage.completion_tokens
        self._finished.append(finish or "")
        self._span.set(
            {
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": self._tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
                "gen_ai.response.finish_reasons": tuple(self._finished),
                "unimodel.prompt_seconds": usage.prompt_seconds,
                "unimodel.generation_seconds": usage.generation_seconds,
            }
        )

    def recorded(self, seconds: float) -> None:
        """The recording was decoded, and is so long."""
        self._span.event("recording decoded")
        self._span.set({"unimodel.recording_seconds": seconds})

    def end(self, outcome: str, at: float | None = None) -> None:
        """It is over: ``ok``, or the code of its error."""
        if outcome != "ok":
            self._span.fail(outcome)
        self._span.end(at)

    @staticmethod
    def computed(calls: Sequence[ModelCall], about: Attributes, begin: float, end: float) -> None:
        """One batch computed all of these. Its span in the first one's trace links to the other calls, and theirs to
        it."""
        first = calls[0]._span
        batch = first.child("compute", about, begin, tuple([c._span.context for c in calls[1:]]))
        if batch is None:
            return
        batch.end(end)
        for call in calls[1:]:
            same = call._span.child("compute", about, begin, (batch.context,))
            if same is not None:
                same.end(end)


def generation(request: GenerateRequest) -> tuple[str, Attributes]:
    """What a request for text is called, and what it asks for."""
    operation = "chat" if request.messages is not None else "text_completion"
    sampling = request.sampling
    asked = {
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.choice.count": request.choices if request.choices != 1 else None,
        "gen_ai.request.stream": request.stream,
        "gen_ai.output.type": "json" if request.format.kind.startswith("json") else "text",
    }
    return operation, {name: value for name, value in asked.items() if value is not None}
