"""Example calls of a model, for the command line, curl and Python."""

from __future__ import annotations

import json
import shlex
from typing import Any

from engine.schema import ModelView
from unimodel_cli.inputs import BODY_KEYS

QUESTION = "What is artificial intelligence?"
OPENING = "Once upon a time"
"""For a model that only completes."""
RECORDING = "speech.wav"
_IMAGES = ("image-classification", "object-detection", "image-segmentation")
"""Tasks of models that look at a picture."""
SHOWN_CHARACTERS = 300
"""Longer example bodies are taken from a file instead."""


def first_call(view: ModelView) -> str | None:
    """One command that predicts with the model; `None` when nothing is known that it takes."""
    if view.task in _IMAGES:
        return f"unimodel predict {view.name} cat.jpg{' --masks masks' if view.task == 'image-segmentation' else ''}"
    if view.generation is not None:
        verb = "chat" if view.task == "chat" else "predict"
        return f"unimodel {verb} {view.name} {shlex.quote(QUESTION if verb == 'chat' else OPENING)} --max-tokens 64"
    if view.transcription is not None:
        return f"unimodel transcribe {RECORDING} --model {view.name}"
    if view.task == "embedding":
        return f"unimodel embed {view.name} 'a fine day'"
    if view.example is None:
        return None
    body = _short_body(view)
    if body is None:
        return f"unimodel show {view.name} --example > body.json && unimodel predict {view.name} body.json"
    value = body["input"] if body.keys() == {"input"} else body
    if isinstance(value, dict) and not value.keys().isdisjoint(BODY_KEYS):
        value = body  # an input of that name alone would be taken for a body
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"unimodel predict {view.name} {shlex.quote(text)}"


def calls(view: ModelView, url: str) -> list[tuple[str, str]]:
    """Title and text of each example. None is made up: there are none for a model of which no request is known."""
    command = first_call(view)
    if command is None:
        return []
    address = f"{url}/v1/models/{view.name}:predict"
    if view.generation is not None:
        return [("Command line", command), *_generating_calls(view, url, address)]
    if view.transcription is not None:
        return [("Command line", command), *_transcribing_calls(view, url, address)]
    body = _short_body(view)
    if view.task in _IMAGES:
        curl = f"curl {address} -H 'content-type: image/jpeg' --data-binary @cat.jpg"
        send = "content=open('cat.jpg', 'rb').read(), headers={'content-type': 'image/jpeg'}"
    elif body is None:
        curl = f"curl {address} -H 'content-type: application/json' --data-binary @body.json"
        send = "content=open('body.json', 'rb').read(), headers={'content-type': 'application/json'}"
    else:
        text = json.dumps(body, ensure_ascii=False)
        curl = f"curl {address} -H 'content-type: application/json' -d {shlex.quote(text)}"
        send = f"json={body!r}"
    python = f"import httpx\nanswer = httpx.post({address!r}, {send}).json()"
    return [("Command line", command), ("curl", curl), ("Python", python)]


def _generating_calls(view: ModelView, url: str, address: str) -> list[tuple[str, str]]:
    chats = view.task == "chat"
    body = json.dumps({"input": QUESTION if chats else OPENING, "max_tokens": 64})
    curl = f"curl {address} -H 'content-type: application/json' -d {shlex.quote(body)}"
    client = f"import openai\nclient = openai.OpenAI(base_url={f'{url}/v1'!r}, api_key='none')\n"
    if chats:
        messages = [{"role": "user", "content": QUESTION}]
        call = f"answer = client.chat.completions.create(model={view.name!r}, messages={messages!r})\n"
        python = f"{client}{call}answer.choices[0].message.content"
    else:
        call = f"answer = client.completions.create(model={view.name!r}, prompt={OPENING!r}, max_tokens=64)\n"
        python = f"{client}{call}answer.choices[0].text"
    return [("curl", curl), ("Python", python)]


def _transcribing_calls(view: ModelView, url: str, address: str) -> list[tuple[str, str]]:
    curl = f"curl {address} -H 'content-type: application/octet-stream' --data-binary @{RECORDING}"
    python = (
        f"import openai\nclient = openai.OpenAI(base_url={f'{url}/v1'!r}, api_key='none')\n"
        f"answer = client.audio.transcriptions.create(model={view.name!r}, file=open({RECORDING!r}, 'rb'))\nanswer.text"
    )
    return [("curl", curl), ("Python", python)]


def _short_body(view: ModelView) -> dict[str, object] | None:
    """The model's example body, if it has one that fits on a screen. Its numbers are rounded, for people to read."""
    body = _rounded(view.example)
    return body if isinstance(body, dict) and len(json.dumps(body)) <= SHOWN_CHARACTERS else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return {k: _rounded(v) for k, v in value.items()} if isinstance(value, dict) else value
