"""``POST /v1/pull``: downloads a model into the server's home folder, and says how far it is, line by line."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from engine import errors as e
from engine.api.dialect import Call, Dialect, EventStream
from engine.api.http import encode_json, error_body
from engine.api.streaming import NDJSON
from engine.errors import UniModelError
from engine.operations import Operation
from engine.schema import Progress, PullRequest

_PULL = Operation(
    "pull_model",
    "POST",
    "/v1/pull",
    "models",
    "Download a model from the Hugging Face hub, to be registered then.",
    Progress,
    PullRequest,
    errors=(
        e.InvalidRequest,
        e.InvalidJSON,
        e.NotFound,
        e.Overloaded,
        e.ModelFileError,
        e.MissingRuntime,
        e.InsufficientStorage,
        e.Unavailable,
    ),
    response_media=(NDJSON,),
    description="""\
The answer is one JSON object a line, a `Progress` each; the last has the model's `path` on the server's machine, or is
an ErrorBody. Of a repository comes what serving one of its models needs: a file, all pieces of one that is split, or a
folder. A download that breaks off, or whose client goes away, goes on where it ended when it is asked for again.
`HF_ENDPOINT` and `HF_TOKEN` in the server's environment say which hub, and who asks.""",
)


async def _pull(call: Call) -> EventStream:
    return EventStream(_lines(call.decode(PullRequest), call), NDJSON)


async def _lines(request: PullRequest, call: Call) -> AsyncGenerator[bytes, None]:
    async with aclosing(call.engine.hub.pull(request.source)) as progress:
        head = b""
        async for step in progress:
            head += encode_json(step) + b"\n"
            if step.status != "resolving":  # what is wrong with the source comes next, and has a status of its own
                yield head
                head = b""


def _error_event(error: UniModelError, rid: str) -> bytes:
    return encode_json(error_body(error, rid)) + b"\n"


DIALECT = Dialect("native", (_PULL,), {"pull_model": _pull}, error_body, _error_event)
