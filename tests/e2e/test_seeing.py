"""Images through every API, with the clients' own libraries, to a real LLM that sees through a random projector."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from PIL import Image
from serving import Server, checked

from tests import models_gguf, models_mmproj

pytest.importorskip("llama_cpp")

QUESTION = "What is it?"
LENGTH = 12


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(models_mmproj.picture(seed)).save(buffer, "PNG")
    return buffer.getvalue()


FIRST, SECOND = png(1), png(2)
BROKEN = FIRST[:60]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url(data: bytes) -> str:
    return f"data:image/png;base64,{b64(data)}"


@pytest.fixture(scope="module")
def served(server: Server) -> Server:
    config: Any = {"max_context_length": 512, "sequences": 4}
    projector = {"mmproj": str(models_mmproj.projector())}
    server.register("seeing", models_gguf.smollm2(), config=config | projector)
    server.register("blind", models_gguf.smollm2(), config=config)
    return server


@pytest.fixture(scope="module")
def openai_client(served: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def anthropic_client(served: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def ollama_client(served: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=served.url) as client:
        yield client


def chat(client: openai.OpenAI, address: str, model: str = "seeing", **fields: Any) -> Any:
    parts: Any = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": QUESTION}]
    messages: Any = [{"role": "user", "content": parts}]
    return client.chat.completions.create(
        model=model, messages=messages, **{"temperature": 0, "max_tokens": LENGTH, **fields}
    )


@pytest.fixture(scope="module")
def answers(openai_client: openai.OpenAI) -> tuple[str, str]:
    """What the model says to each of the two pictures."""
    first, second = (chat(openai_client, url(data)).choices[0].message.content for data in (FIRST, SECOND))
    assert first != second
    return first, second


def test_the_model_says_that_it_sees(served: Server, ollama_client: ollama.Client) -> None:
    seeing, blind = (served.get(f"/v1/models/{name}") for name in ("seeing", "blind"))
    assert seeing["generation"]["images"]
    assert not blind["generation"]["images"]
    assert any(note.startswith("Images go through mmproj-mlp.gguf (mlp)") for note in seeing["notes"])
    assert "vision" in (ollama_client.show("seeing").capabilities or ())
    assert "vision" not in (ollama_client.show("blind").capabilities or ())


def test_openai_chat(openai_client: openai.OpenAI, answers: tuple[str, str]) -> None:
    whole = chat(openai_client, url(FIRST))
    assert whole.choices[0].message.content == answers[0]
    assert whole.usage.prompt_tokens > 64
    stream = chat(openai_client, url(SECOND), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answers[1]


def test_openai_responses(openai_client: openai.OpenAI, answers: tuple[str, str]) -> None:
    parts: Any = [
        {"type": "input_image", "image_url": url(FIRST), "detail": "auto"},
        {"type": "input_text", "text": QUESTION},
    ]
    response = openai_client.responses.create(
        model="seeing", input=[{"role": "user", "content": parts}], temperature=0, max_output_tokens=LENGTH
    )
    assert response.output_text == answers[0]
    assert response.usage is not None
    assert response.usage.input_tokens > 64


def test_anthropic(anthropic_client: anthropic.Anthropic, answers: tuple[str, str]) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": b64(SECOND)}
    messages: Any = [
        {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]}
    ]
    answer = anthropic_client.messages.create(
        model="seeing", messages=messages, max_tokens=LENGTH, extra_body={"temperature": 0}
    )
    assert answer.content[0].type == "text"
    assert answer.content[0].text == answers[1]
    counted = anthropic_client.messages.count_tokens(model="seeing", messages=messages)
    used = answer.usage
    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0) > 64


def test_ollama(ollama_client: ollama.Client, answers: tuple[str, str]) -> None:
    options = {"temperature": 0, "num_predict": LENGTH}
    messages = [{"role": "user", "content": QUESTION, "images": [FIRST]}]
    chatted = ollama_client.chat("seeing", messages, options=options)
    assert chatted.message.content == answers[0]
    assert (chatted.prompt_eval_count or 0) > 64
    generated = ollama_client.generate("seeing", QUESTION, images=[SECOND], options=options)
    assert generated.response == answers[1]


def test_the_native_api(served: Server, answers: tuple[str, str]) -> None:
    wishes = {"temperature": 0, "max_tokens": LENGTH}
    beside = served.predict("seeing", {"input": QUESTION, "images": [b64(FIRST)], **wishes})
    assert beside["output"] == answers[0]
    message = {"role": "user", "content": QUESTION, "images": [url(SECOND)]}
    assert served.predict("seeing", {"input": [message], **wishes})["output"] == answers[1]
    wrong = {**message, "role": "assistant"}
    refused = served.predict("seeing", {"input": [wrong], **wishes}, status=400)["error"]
    assert refused["param"] == "input[0].images"


def test_the_command_line(served: Server, tmp_path: Path, answers: tuple[str, str]) -> None:
    (tmp_path / "cat.png").write_bytes(FIRST)
    flags = ["--image", "cat.png", "--temperature", "0", "--max-tokens", str(LENGTH), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "unimodel_cli", "chat", "seeing", QUESTION, *flags],
        env={**os.environ, "UNIMODEL_HOME": str(served.home), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["content"] == answers[0]


def test_a_photo_of_many_megabytes(openai_client: openai.OpenAI) -> None:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (1500, 1000), os.urandom(4_500_000)).save(buffer, "PNG")
    assert chat(openai_client, url(buffer.getvalue())).choices[0].message.content


# --- what is refused ------------------------------------------------------------------------------------------------


def test_addresses_are_not_fetched(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does not fetch images") as caught:
        chat(openai_client, "https://example.com/cat.png")
    assert caught.value.param == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("model", "data", "problem"),
    [
        ("blind", FIRST, "does not see images; send text alone, or register it with its projector"),
        ("seeing", BROKEN, "Image 1 is a corrupt PNG image"),
        ("seeing", b"GIF89a", "Image 1 is a corrupt image|Image 1 is not an image"),
    ],
)
def test_an_image_that_cannot_be_seen(
    openai_client: openai.OpenAI,
    anthropic_client: anthropic.Anthropic,
    ollama_client: ollama.Client,
    served: Server,
    model: str,
    data: bytes,
    problem: str,
) -> None:
    with pytest.raises(openai.BadRequestError, match=problem) as by_openai:
        chat(openai_client, url(data), model)
    assert by_openai.value.param == "messages"
    item: Any = {"role": "user", "content": [{"type": "input_image", "image_url": url(data)}]}
    with pytest.raises(openai.BadRequestError, match=problem) as by_responses:
        openai_client.responses.create(model=model, input=[item])
    assert by_responses.value.param == "input"
    source: Any = {"type": "base64", "media_type": "image/png", "data": b64(data)}
    with pytest.raises(anthropic.BadRequestError, match=problem):
        anthropic_client.messages.create(
            model=model, max_tokens=4, messages=[{"role": "user", "content": [{"type": "image", "source": source}]}]
        )
    with pytest.raises(ollama.ResponseError, match=problem) as by_ollama:
        ollama_client.chat(model, [{"role": "user", "content": "Hi", "images": [data]}])
    assert by_ollama.value.status_code == 400
    native = served.http.post(f"/v1/models/{model}:predict", json={"input": "Hi", "images": [b64(data)]})
    assert checked(native, 400)["error"]["param"] == "messages"


def test_more_images_than_the_context_has_room_for(openai_client: openai.OpenAI) -> None:
    part = {"type": "image_url", "image_url": {"url": url(FIRST)}}
    messages: Any = [{"role": "user", "content": [part] * 9}]
    with pytest.raises(openai.BadRequestError, match="576 of them for images, and may have 511"):
        openai_client.chat.completions.create(model="seeing", messages=messages)


def test_a_damaged_projector_is_refused_at_registration(served: Server, tmp_path: Path) -> None:
    projector = models_mmproj.write(tmp_path / "mmproj.gguf", patch_size=7)
    config = {"mmproj": str(projector), "max_context_length": 512}
    refused = served.register("damaged", models_gguf.smollm2(), 422, config=config)["error"]
    assert "mmproj.gguf is damaged, or of a kind that this version of llama.cpp cannot use" in refused["message"]
    assert served.get("/v1/models/seeing/status")["state"] == "ready"
