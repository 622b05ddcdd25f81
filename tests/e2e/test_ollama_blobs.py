"""Ollama's own client uploads files, and creates models of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from serving import Server, doubler, wait_until

from tests import models_gguf
from tests.models import model

GREEDY = {"temperature": 0, "num_predict": 8}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


@pytest.fixture(scope="module")
def llama(client: ollama.Client) -> str:
    """The digest of an uploaded model that says the same nonsense, always."""
    return client.create_blob(models_gguf.llama())


def refused(call: Callable[[], Any]) -> ollama.ResponseError:
    with pytest.raises(ollama.ResponseError) as e:
        call()
    assert "Traceback" not in e.value.error
    return e.value


def said(client: ollama.Client, name: str) -> str:
    return client.generate(name, "hello", raw=True, options=GREEDY).response


def blobs(server: Server) -> set[str]:
    """What lies in the folder of uploads."""
    folder = server.home / "blobs"
    return {p.name for p in folder.iterdir()} if folder.exists() else set()


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_an_uploaded_model_chats(client: ollama.Client, server: Server) -> None:
    path = model("smollm2", "model.gguf")
    name = client.create_blob(path)
    assert server.http.head(f"/api/blobs/{name}").status_code == 200
    assert client.create_blob(path) == name, "it is there already"
    *_, last = client.create("chat", files={"smol.gguf": name}, parameters={"num_ctx": 512}, stream=True)
    assert last.status == "success"
    answer = client.chat("chat", [{"role": "user", "content": "What is the capital of France?"}], options=GREEDY)
    assert answer.eval_count == 8
    assert "smol.gguf" in (client.show("chat").modelfile or "")
    assert client.create("brief", from_="chat", parameters={"temperature": 0}).status == "success"
    assert client.delete("chat").status == client.delete("brief").status == "success"


async def test_the_asynchronous_client_uploads_too(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(3_000_000))
    async with ollama.AsyncClient(host=server.url) as client:
        assert await client.create_blob(file) == digest(bytes(3_000_000))


def test_a_file_that_is_not_there_is_a_404(server: Server) -> None:
    assert server.http.head(f"/api/blobs/{digest(b'nothing')}").status_code == 404
    for name in ("sha256:12", "..%2f..%2fregistry.db", "sha256:%2e%2e"):
        assert server.http.head(f"/api/blobs/{name}").status_code in (400, 404)
        assert server.http.post(f"/api/blobs/{name}", content=b"x").status_code in (400, 404)


def test_a_wrong_digest_is_refused_and_leaves_nothing(server: Server) -> None:
    before = blobs(server)
    answer = server.http.post(f"/api/blobs/{digest(b'one')}", content=b"another")
    assert answer.status_code == 400
    assert digest(b"another") in answer.json()["error"]
    assert server.http.head(f"/api/blobs/{digest(b'one')}").status_code == 404
    assert blobs(server) == before


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    before = blobs(server)
    with server.connect() as connection:
        head = f"POST /api/blobs/{digest(b'whole')} HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n"
        connection.sendall(head.encode() + bytes(2_000_000))
        wait_until(lambda: blobs(server) != before)
    wait_until(lambda: blobs(server) == before)


def test_a_file_that_is_too_large_is_a_413(start: Callable[..., Server]) -> None:
    server = start("--max-upload-mb", "1")
    content = bytes((1 << 20) + 1)
    name = digest(content)
    announced = httpx.post(f"{server.url}/api/blobs/{name}", content=content)
    chunked = httpx.post(f"{server.url}/api/blobs/{name}", content=iter([content]))
    for answer in (announced, chunked):
        assert answer.status_code == 413
        assert "server.max_upload_mb" in answer.json()["error"]
    assert blobs(server) == set()
    assert server.http.post(f"/api/blobs/{digest(b'small')}", content=b"small").status_code == 201


def test_adapters_change_what_a_model_says(client: ollama.Client, llama: str, tmp_path: Path) -> None:
    client.create("plain", files={"llama.gguf": llama})
    one, two = (client.create_blob(models_gguf.adapter(tmp_path, seed, 64, (0, 1))) for seed in (1, 2))
    client.create("one", files={"llama.gguf": llama}, adapters={"first.gguf": one})
    client.create("both", from_="one", adapters={"second.gguf": two})
    assert len({said(client, name) for name in ("plain", "one", "both")}) == 3


def test_a_model_in_parts(client: ollama.Client, llama: str) -> None:
    parts = {path.name: client.create_blob(path) for path in models_gguf.llama_in_parts()}
    assert len(parts) > 1
    client.create("parts", files=parts)
    client.create("plain", files={"llama.gguf": llama})
    assert said(client, "parts") == said(client, "plain")
    name, _ = parts.popitem()
    assert f"{name} is missing" in refused(lambda: client.create("some", files=parts)).error


def test_a_model_of_another_kind(client: ollama.Client, server: Server, tmp_path: Path) -> None:
    client.create("double", files={"double.onnx": client.create_blob(doubler(tmp_path / "double.onnx"))})
    assert server.predict("double", {"input": [1, 2, 3, 4]})["output"] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"files": {"a.gguf": digest(b"nothing")}}, "upload it"),
        ({"files": {"a.gguf": "sha256:0"}}, "hexadecimal"),
        ({"files": {"../a.gguf": "LLAMA"}}, "'../a.gguf' cannot be the name"),
        ({"files": {"/a.gguf": "LLAMA"}}, "cannot be the name"),
        ({"files": {"a.gguf": "LLAMA", "b.gguf": "LLAMA"}}, "several models"),
        ({"files": {"a.gguf": "LLAMA", "README": "LLAMA"}}, "README is no part of it"),
        ({"files": {"a.txt": "LLAMA"}, "adapters": {"b.gguf": digest(b"nothing")}}, "upload it"),
        ({"files": {"a.gguf": "LLAMA"}, "adapters": {"b.gguf": "LLAMA"}}, "LoRA"),
        ({"files": {"a.gguf": "LLAMA"}, "from_": "plain"}, "either"),
    ],
)
def test_what_cannot_be_created_is_said(
    client: ollama.Client, server: Server, llama: str, fields: dict[str, Any], words: str
) -> None:
    models = server.home / "blobs" / "models"
    before = set(models.iterdir()) if models.exists() else set()
    for files in (fields["files"], fields.get("adapters", {})):
        files.update({name: llama for name, value in files.items() if value == "LLAMA"})
    error = refused(lambda: client.create("new", **fields))
    assert error.status_code in (400, 422)
    assert words in error.error
    assert (set(models.iterdir()) if models.exists() else set()) == before


@pytest.mark.parametrize("name", ["acme/chat", "../up", "/tmp/up", "x" * 129])
def test_a_model_is_not_created_under_what_is_no_name(client: ollama.Client, llama: str, name: str) -> None:
    error = refused(lambda: client.create(name, files={"a.gguf": llama}))
    assert error.status_code == 400
    assert "cannot be a name" in error.error


def test_a_restart_removes_what_no_model_is_loaded_from(start: Callable[..., Server], tmp_path: Path) -> None:
    home = tmp_path / "same"
    server = start(home=home)
    with ollama.Client(host=server.url) as client:
        used = client.create_blob(models_gguf.llama())
        unused = client.create_blob(models_gguf.embedder())
        client.create("kept", files={"llama.gguf": used})
        client.create("gone", files={"embedder.gguf": unused})
        client.delete("gone")
        answer = said(client, "kept")
        assert server.http.head(f"/api/blobs/{unused}").status_code == 200
    server.__exit__()
    server = start(home=home)
    assert server.http.head(f"/api/blobs/{unused}").status_code == 404
    assert server.http.head(f"/api/blobs/{used}").status_code == 200
    with ollama.Client(host=server.url) as client:
        assert said(client, "kept") == answer
