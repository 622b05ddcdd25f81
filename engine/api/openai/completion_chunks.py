"""The chunks of streamed completions, and the oldest form of log probabilities, which goes with them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backends.generation import TokenLogprob, Usage
from engine.api.http import encode_json
from engine.api.openai.common import DONE, Head, finite, token_text, usage_of
from engine.transport.generation import Delta


class CompletionLogprobs(msgspec.Struct, kw_only=True):
    """The log probabilities of a choice's tokens, as lists side by side."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    """The likeliest tokens and the chosen one; null when none were asked for."""
    text_offset: list[int]
    """Where each token begins in the choice's text, in characters."""


def completion_logprobs(tokens: Sequence[TokenLogprob], top: int, offset: int) -> CompletionLogprobs:
    """The log probabilities of tokens whose first begins at `offset`."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += characters(token)
    return CompletionLogprobs(
        tokens=[token_text(t.text) for t in tokens],
        token_logprobs=[finite(t.logprob) for t in tokens],
        top_logprobs=[{token_text(o.text): finite(o.logprob) for o in (*t.top, t)} for t in tokens] if top else None,
        text_offset=offsets,
    )


def characters(token: TokenLogprob) -> int:
    """How many characters begin in a token."""
    return sum(byte & 0xC0 != 0x80 for byte in token.text)


class CompletionChunks:
    """Turns the deltas of one request, which may have several prompts, into server-sent events."""

    def __init__(
        self, head: Head, prompts: int, choices: int, echoes: list[str], logprobs: int | None, include_usage: bool
    ) -> None:
        common = {"id": head.id, "object": "text_completion", "created": head.created, "model": head.model}
        self._start = b"data: " + encode_json({**common, "system_fingerprint": head.fingerprint})[:-1]
        count = prompts * choices
        self._opens = [b'%s,"choices":[{"index":%d,"text":' % (self._start, index) for index in range(count)]
        self._end = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._close = b',"logprobs":null,"finish_reason":null}]' + self._end
        self._logprobs = logprobs
        self._include_usage = include_usage
        self._choices = choices
        self._echoes = [echo for echo in echoes for _ in range(choices)]
        self._offsets = [0] * count
        self._usages: list[list[Usage]] = [[] for _ in range(prompts)]
        self._left = count

    def of(self, prompt: int, deltas: list[Delta]) -> bytes:
        """The chunks of some deltas of a prompt, in one piece; with the very last, the end of the stream."""
        parts: list[bytes] = []
        for delta in deltas:
            self._write(prompt, delta, parts)
        return b"".join(parts)

    def _write(self, prompt: int, delta: Delta, parts: list[bytes]) -> None:
        choice = prompt * self._choices + delta.choice
        text = delta.content
        if self._echoes[choice]:
            text = self._echoes[choice] + text
            self._echoes[choice] = ""
        if delta.finish is None and not delta.logprobs:
            if text:
                parts += self._opens[choice], encode_json(text), self._close
            return
        logprobs = encode_json(self._logprobs_of(choice, delta))
        reason = encode_json(delta.finish)
        parts += self._opens[choice], encode_json(text), b',"logprobs":', logprobs, b',"finish_reason":', reason, b"}]"
        parts.append(self._end)
        if delta.finish is not None:
            self._usages[prompt].append(delta.usage or Usage(prompt_tokens=0))
            self._finish(parts)

    def _logprobs_of(self, choice: int, delta: Delta) -> CompletionLogprobs | None:
        if self._logprobs is None or not delta.logprobs:
            return None
        answer = completion_logprobs(delta.logprobs, self._logprobs, self._offsets[choice])
        self._offsets[choice] += sum(map(characters, delta.logprobs))
        return answer

    def _finish(self, parts: list[bytes]) -> None:
        """One choice is whole; with the last one, so is the answer."""
        self._left -= 1
        if self._left:
            return
        if self._include_usage:
            parts += self._start, b',"choices":[],"usage":', encode_json(usage_of(self._usages)), b"}\n\n"
        parts.append(DONE)
