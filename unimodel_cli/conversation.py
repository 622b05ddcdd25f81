"""A conversation with a model: what was said, how it is to answer, and the file that keeps it."""

from __future__ import annotations

import base64
import json
import mimetypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import InsufficientStorage
from unimodel_cli.errors import UsageError

Message = dict[str, Any]
"""As ``/v1/chat/completions`` has it."""

FORMAT = "unimodel-conversation"
"""Marks a file that holds one."""
ROLES = ("user", "assistant")
IMAGE_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
OWN = ("model", "messages", "stream", "stream_options", "n", "tools", "tool_choice", "logprobs", "top_logprobs")
"""Keys of a request that are not for the user to set: answers are shown as one text."""


@dataclass
class Conversation:
    """One conversation with the model `model`."""

    model: str
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    """The turns so far: the user's, the assistant's, and so on."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Keys of every request, such as ``temperature``."""
    images: list[str] = field(default_factory=list)
    """``data:`` URLs that go with the user's next message."""

    def body(self) -> bytes:
        """The request for the next answer, streamed."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        request = {
            "model": self.model,
            "messages": [*system, *self.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.parameters,
        }
        return json.dumps(request, ensure_ascii=False).encode()

    def say(self, text: str) -> None:
        """Adds a message of the user, with the images that wait for one."""
        content: Any = text
        if self.images:
            pictures = [{"type": "image_url", "image_url": {"url": url}} for url in self.images]
            content = [*pictures, {"type": "text", "text": text}]
            self.images = []
        self.messages.append({"role": "user", "content": content})

    def answer(self, text: str) -> None:
        """Adds a message of the assistant."""
        self.messages.append({"role": "assistant", "content": text})

    def undo(self) -> Message | None:
        """Takes back the user's last message and what followed, and returns it; `None` when there is none."""
        for i in range(len(self.messages) - 1, -1, -1):
            if self.messages[i]["role"] == "user":
                last = self.messages[i]
                del self.messages[i:]
                return last
        return None

    def reset(self) -> None:
        """Forgets what was said. The system message and the parameters stay."""
        self.messages.clear()
        self.images.clear()

    def attach(self, file: str) -> None:
        """Lets an image go with the next message. Raises `UsageError`."""
        self.images.append(image_url(file))

    def save(self, path: Path) -> None:
        """Writes the conversation. Raises `UsageError` for another kind of file, `InsufficientStorage`."""
        if path.exists():
            _read(path)
        document = {
            "format": FORMAT,
            "model": self.model,
            "system": self.system,
            "parameters": self.parameters,
            "messages": self.messages,
        }
        try:
            path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
        except OSError as e:
            raise InsufficientStorage(f"Cannot write {path}: {e.strerror}.") from None

    def load(self, path: Path) -> None:
        """Goes on with a saved conversation, whichever model it was with. Raises `UsageError`."""
        document = _read(path)
        self.system = document["system"]
        self.parameters = document["parameters"]
        self.messages = document["messages"]
        self.images.clear()


def _read(path: Path) -> dict[str, Any]:
    """The content of a saved conversation. Raises `UsageError` for what is none."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as e:
        raise UsageError(f"Cannot read {path}: {e.strerror}.") from None
    except ValueError:
        document = None
    if not (isinstance(document, dict) and document.get("format") == FORMAT and _is_whole(document)):
        raise UsageError(f"{path} is no saved conversation.")
    return document


def _is_whole(document: dict[str, Any]) -> bool:
    messages = document.get("messages")
    return (
        isinstance(document.get("system"), str | None)
        and isinstance(document.get("parameters"), dict)
        and isinstance(messages, list)
        and all(isinstance(m, dict) and m.get("role") in ROLES and "content" in m for m in messages)
    )


def image_url(file: str) -> str:
    """An image file as a ``data:`` URL. Raises `UsageError`."""
    path = Path(file).expanduser()
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UsageError(f"Cannot read {file}: {e.strerror}.") from None
    kind = next((kind for magic, kind in IMAGE_KINDS if data.startswith(magic)), None)
    kind = kind or mimetypes.guess_type(file)[0]
    if kind is None or not kind.startswith("image/"):
        raise UsageError(f"{file} is no image.")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
