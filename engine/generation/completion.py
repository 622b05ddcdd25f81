"""The deltas of a generated answer, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from backends.generation import TokenLogprob, Usage
from engine.transport.generation import Delta, FinishReason, ToolCall


@dataclass(slots=True)
class Completion:
    """One whole choice."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason = "stop"
    stop_text: str | None = None
    usage: Usage = Usage(prompt_tokens=0)
    context: list[int] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Takes in the next delta of this choice."""
        self.content += delta.content
        self.reasoning += delta.reasoning
        self.logprobs += delta.logprobs
        for call in delta.tool_calls:
            if call.index == len(self.tool_calls):
                self.tool_calls.append(ToolCall(id=call.id or "", name=call.name or "", arguments=""))
            self.tool_calls[call.index].arguments += call.arguments
        if delta.finish is not None:
            self.finish = delta.finish
            self.stop_text = delta.stop_text
            self.usage = delta.usage or self.usage
            self.context = delta.context


async def collect(deltas: AsyncIterator[list[Delta]], choices: int) -> list[Completion]:
    """All choices, whole."""
    completions = [Completion() for _ in range(choices)]
    async for group in deltas:
        for delta in group:
            completions[delta.choice].add(delta)
    return completions


def total(completions: list[Completion]) -> Usage:
    """The usage of a request: its prompt once, the answers together."""
    usages = [c.usage for c in completions]
    return Usage(
        prompt_tokens=max(u.prompt_tokens for u in usages),
        cached_tokens=usages[0].cached_tokens,
        completion_tokens=sum(u.completion_tokens for u in usages),
        reasoning_tokens=sum(u.reasoning_tokens for u in usages),
        draft_tokens=sum(u.draft_tokens for u in usages),
        accepted_tokens=sum(u.accepted_tokens for u in usages),
        prompt_seconds=min(u.prompt_seconds for u in usages),
        generation_seconds=max(u.generation_seconds for u in usages),
    )
