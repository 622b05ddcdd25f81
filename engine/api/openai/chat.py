"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

import msgspec

from engine.api.dialect import Call, EventStream, Reply
from engine.api.openai.chat_chunks import ChatChunks
from engine.api.openai.chat_request import ChatCompletionRequest, translate
from engine.api.openai.common import (
    CHAT_NAMES,
    ChoiceLogprob,
    CompletionUsage,
    Head,
    choice_logprobs,
    naming,
    usage_of,
    wrong_model,
)
from engine.api.openai.messages import ChatFunctionCall
from engine.api.openai.plugin_chat import is_plugin, plugin_completion, plugin_deltas
from engine.generation.completion import Completion
from engine.transport.generation import Delta, FinishReason


class AnsweredToolCall(msgspec.Struct, kw_only=True):
    """A call of a tool that the model wants."""

    id: str
    type: Literal["function"] = "function"
    function: ChatFunctionCall


class ChatCompletionMessage(msgspec.Struct, kw_only=True):
    """What the model answered."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    """Null when the answer is calls of tools alone."""
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    """What the model thought before it answered."""
    tool_calls: list[AnsweredToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatLogprobs(msgspec.Struct, kw_only=True):
    """The log probabilities of a choice's tokens."""

    content: list[ChoiceLogprob]
    refusal: None = None


class ChatChoice(msgspec.Struct, kw_only=True):
    """One answer."""

    index: int
    message: ChatCompletionMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(msgspec.Struct, kw_only=True):
    """The answer of ``POST /v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """Seconds since the epoch."""
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage | None
    """Null when the model is code that counts no tokens."""
    system_fingerprint: str


async def create_chat_completion(call: Call) -> Reply | EventStream:
    """Answers a conversation."""
    body = call.decode(ChatCompletionRequest)
    request = translate(body)
    entry = await call.entry(body.model)
    if not is_plugin(entry) and entry.spec.info.generation is None:
        raise wrong_model(entry, "chat")
    head = Head.of("chatcmpl-", body.model, entry.spec)
    logprobs = request.logprobs is not None
    if body.stream:
        include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        chunks = ChatChunks(head, request.choices, logprobs, include_usage)
        if is_plugin(entry):
            return EventStream(_events(plugin_deltas(call, entry, body), chunks))
        with naming(CHAT_NAMES):
            return EventStream(_events(await call.generate(entry, request), chunks))
    if is_plugin(entry):
        answer = completed(head, [await plugin_completion(call, entry, body)], logprobs)
        answer.usage = None
        return Reply(answer)
    with naming(CHAT_NAMES):
        return Reply(completed(head, await call.complete(entry, request), logprobs))


def completed(head: Head, completions: list[Completion], logprobs: bool) -> ChatCompletion:
    """The whole answer."""
    return ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=[
            ChatChoice(
                index=index,
                message=_message(completion),
                logprobs=ChatLogprobs(content=choice_logprobs(completion.logprobs)) if logprobs else None,
                finish_reason=completion.finish,
            )
            for index, completion in enumerate(completions)
        ],
        usage=usage_of([[c.usage for c in completions]]),
        system_fingerprint=head.fingerprint,
    )


def _message(completion: Completion) -> ChatCompletionMessage:
    message = ChatCompletionMessage(content=completion.content)
    if completion.reasoning:
        message.reasoning_content = completion.reasoning
    if completion.tool_calls:
        message.content = completion.content or None
        message.tool_calls = [
            AnsweredToolCall(id=c.id, function=ChatFunctionCall(name=c.name, arguments=c.arguments))
            for c in completion.tool_calls
        ]
    return message


async def _events(deltas: AsyncGenerator[list[Delta], None], chunks: ChatChunks) -> AsyncGenerator[bytes, None]:
    async with aclosing(deltas):
        async for group in deltas:
            data = chunks.of(group)
            if data:
                yield data
