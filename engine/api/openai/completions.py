"""``POST /v1/completions``: one text, or several, that a model goes on with."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.api.dialect import Call, EventStream, Reply
from engine.api.openai.chat_request import MAX_CHOICES
from engine.api.openai.common import COMPLETION_NAMES, CompletionUsage, Head, naming, usage_of, wrong_model
from engine.api.openai.completion_chunks import CompletionChunks, CompletionLogprobs, completion_logprobs
from engine.api.openai.prompts import complete_all, merged
from engine.api.openai.sampling import Count, SamplingFields, StreamOptions, Token, choose_format, fill_sampling
from engine.errors import InvalidInput
from engine.generation.completion import Completion
from engine.transport.generation import Delta, FinishReason, GenerateRequest

_MAX_TOKENS = 16
"""OpenAI's default for this endpoint, which clients rely on."""
_MOST_CHOICES = 2048
"""Of one request, over all its prompts."""


class CompletionRequest(SamplingFields, kw_only=True):
    """``POST /v1/completions``: OpenAI's request, with the commonest fields of vLLM and llama-server."""

    model: str
    prompt: str | list[str | Token | list[Token]]
    """A text, a list of texts, the tokens of a text, or a list of those."""
    suffix: str | None = None
    """The text after the gap that is to be filled, for models that can."""
    max_tokens: Count | None = None
    """16 when not given."""
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    """Answers wanted for each prompt."""
    best_of: int | None = None
    """Must be `n`: no answers are generated to be dropped."""
    stream: bool | None = None
    """Whether the answer comes in chunks, as server-sent events that end with ``[DONE]``."""
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Alternatives reported with each token; 0 reports the token alone."""
    echo: bool | None = None
    """Whether the prompt comes back before the answer."""


class CompletionChoice(msgspec.Struct, kw_only=True):
    """One answer. Those of the second prompt follow those of the first."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class CompletionAnswer(msgspec.Struct, kw_only=True):
    """The answer of ``POST /v1/completions``."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Seconds since the epoch."""
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
    system_fingerprint: str


async def create_completion(call: Call) -> Reply | EventStream:
    """Goes on with one or several prompts."""
    body = call.decode(CompletionRequest)
    requests = translate(body)
    echoes = [str(r.prompt) if body.echo else "" for r in requests]
    entry = await call.entry(body.model)
    if entry.spec.info.generation is None:
        raise wrong_model(entry, "completion")
    head = Head.of("cmpl-", body.model, entry.spec)
    if not body.stream:
        with naming(COMPLETION_NAMES):
            return Reply(completed(head, await complete_all(call, entry, requests), echoes, body.logprobs))
    include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    chunks = CompletionChunks(head, len(requests), body.n or 1, echoes, body.logprobs, include_usage)
    with naming(COMPLETION_NAMES):
        first = await call.generate(entry, requests[0])
    return EventStream(_events(merged(first, requests[1:], lambda r: call.generate(entry, r)), chunks))


def translate(body: CompletionRequest) -> list[GenerateRequest]:
    """The engine's requests, one for each prompt. Raises `InvalidInput`."""
    choices = body.n or 1
    if body.best_of not in (None, choices):
        raise InvalidInput(
            f"best_of must be n ({choices}): the server generates no answers to drop them.", field="best_of"
        )
    if body.stream_options is not None and not body.stream:
        raise InvalidInput("stream_options needs stream to be true.", field="stream_options")
    prompts = _prompts(body.prompt)
    if len(prompts) * choices > _MOST_CHOICES:
        raise InvalidInput(
            f"{len(prompts)} prompts with {choices} answers each are more than {_MOST_CHOICES}; send fewer at once.",
            field="prompt",
        )
    if body.echo and not all(isinstance(p, str) for p in prompts):
        raise InvalidInput("echo needs prompts that are texts, not tokens.", field="echo")
    if body.echo and body.logprobs is not None:
        raise InvalidInput("A prompt has no log probabilities: give echo or logprobs, not both.", field="echo")
    form = choose_format(body, None, "response_format")
    requests = []
    for prompt in prompts:
        request = GenerateRequest(
            prompt=prompt,
            suffix=body.suffix,
            format=form,
            choices=choices,
            max_tokens=body.max_tokens or _MAX_TOKENS,
            logprobs=body.logprobs,
            separate_reasoning=False,
            stream=bool(body.stream),
        )
        fill_sampling(request, body)
        requests.append(request)
    return requests


def _prompts(prompt: str | list[str | int | list[int]]) -> list[str] | list[list[int]]:
    """The prompts, in the one form that they all have. Raises `InvalidInput`."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise InvalidInput("prompt must not be empty.", field="prompt")
    texts = [p for p in prompt if isinstance(p, str)]
    tokens = [p for p in prompt if isinstance(p, int)]
    lists = [p for p in prompt if isinstance(p, list)]
    if max(len(texts), len(tokens), len(lists)) < len(prompt):
        raise InvalidInput("prompt mixes texts and tokens; send texts alone or tokens alone.", field="prompt")
    if [] in lists:
        raise InvalidInput("A prompt of tokens must not be empty.", field="prompt")
    return texts or lists or [tokens]


def completed(head: Head, answers: list[list[Completion]], echoes: list[str], logprobs: int | None) -> CompletionAnswer:
    """The whole answer, with the choices of each prompt."""
    texts = [(echo, completion) for echo, choices in zip(echoes, answers, strict=True) for completion in choices]
    return CompletionAnswer(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=[
            CompletionChoice(
                index=index,
                text=echo + completion.content,
                logprobs=None if logprobs is None else completion_logprobs(completion.logprobs, logprobs, 0),
                finish_reason=completion.finish,
            )
            for index, (echo, completion) in enumerate(texts)
        ],
        usage=usage_of([[c.usage for c in choices] for choices in answers]),
        system_fingerprint=head.fingerprint,
    )


async def _events(
    groups: AsyncGenerator[tuple[int, list[Delta]], None], chunks: CompletionChunks
) -> AsyncGenerator[bytes, None]:
    async with aclosing(groups):
        async for prompt, group in groups:
            data = chunks.of(prompt, group)
            if data:
                yield data
