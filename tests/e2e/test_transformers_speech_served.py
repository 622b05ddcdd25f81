"""Hugging Face folders that write down speech, through a real server: OpenAI's client, the command line, and more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI
from serving import Server

from tests import models_speech, models_transformers_speech
from tests.models_speech import TEXTS
from tests.models_transformers import copied
from tests.models_transformers_speech import LEARNED

PATIENT = {"x-request-timeout-ms": "600000"}


@pytest.fixture(scope="module")
def served(server: Server) -> Server:
    server.http.timeout = httpx.Timeout(600)
    server.register("listener", models_transformers_speech.whisper(), config={"max_audio_s": 200})
    server.register("letters", models_transformers_speech.ctc(), config={"language": "en"})
    return server


@pytest.fixture(scope="module")
def client(served: Server) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=600, default_headers=PATIENT
    ) as one:
        yield one


def ask(client: OpenAI, name: str, **wishes: Any) -> Any:
    clip = ("a.wav", models_speech.clip(name))
    return client.audio.transcriptions.create(**{"model": "listener", "file": clip, **wishes})


def test_formats(client: OpenAI) -> None:
    verbose = ask(
        client,
        "0930",
        response_format="verbose_json",
        language="en",
        timestamp_granularities=["word", "segment"],
    )
    assert (verbose.text, verbose.language, verbose.duration) == (TEXTS["0930"], "en", 3.29)
    assert [w.word for w in verbose.words] == TEXTS["0930"].split()
    times = [time for word in verbose.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert "".join(s.text for s in verbose.segments).strip() == verbose.text
    assert ask(client, "0930", response_format="srt") == (f"1\n00:00:00,000 --> 00:00:03,000\n{TEXTS['0930']}\n")
    assert ask(client, "goforward", model="letters", response_format="text") == LEARNED["goforward"] + "\n"


def test_a_stream_of_events(client: OpenAI) -> None:
    *deltas, done = list(ask(client, "0930", stream=True))
    assert "".join(event.delta for event in deltas) == done.text == TEXTS["0930"]


def test_many_at_once(served: Server) -> None:
    def hear(name: str) -> Any:
        url, headers = "/v1/models/letters:predict?words=true", {"content-type": "audio/wav", **PATIENT}
        return served.http.post(url, content=models_speech.clip(name), headers=headers).json()

    names = [*LEARNED] * 3
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(hear, names))
    assert [answer["text"] for answer in answers] == [LEARNED[name] for name in names]
    words = [word["word"] for segment in answers[0]["segments"] for word in segment["words"]]
    assert "".join(words).strip() == answers[0]["text"]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's word on translations
def test_requests_that_are_refused(client: OpenAI) -> None:
    good = ("a.wav", models_speech.clip("goforward"))
    for call, field in (
        (lambda: ask(client, "goforward", language="de"), "language"),
        (lambda: ask(client, "goforward", extra_body={"vad_filter": "true"}), "vad_filter"),
        (lambda: ask(client, "goforward", model="letters", prompt="Mr."), "prompt"),
        (lambda: client.audio.translations.create(model="letters", file=good), "model"),
    ):
        with pytest.raises(BadRequestError) as caught:
            call()
        body: Any = caught.value.body
        assert body["param"] == field


def test_what_the_server_says_of_the_models(served: Server) -> None:
    view = served.get("/v1/models/listener")
    assert (view["task"], view["backend"], view["streams"]) == ("transcription", "transformers-speech", True)
    assert view["transcription"] == {"sequences": 8, "languages": ["en"], "translates": False}
    assert served.get("/v1/models/letters")["transcription"]["languages"] == ["en"]


def test_the_command_line(served: Server, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(models_speech.clip("0930"))
    env = {k: v for k, v in os.environ.items() if not k.startswith("UNIMODEL_")} | {"UNIMODEL_HOST": served.url}

    def transcribe(*options: str) -> str:
        command = [str(Path(sys.executable).parent / "unimodel"), "transcribe", "talk.wav", *options]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert transcribe("--model", "listener").strip() == TEXTS["0930"]
    srt = transcribe("--model", "letters", "--format", "srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:03,280\n" + LEARNED["0930"])
    answer = json.loads(transcribe("--model", "letters", "--format", "json", "--words"))
    assert [word["word"].strip() for s in answer["segments"] for word in s["words"]] == LEARNED["0930"].split()


def test_a_folder_that_is_damaged_is_refused_and_the_server_goes_on(served: Server, tmp_path: Path) -> None:
    weights = copied(models_transformers_speech.whisper(), tmp_path / "weights") / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:-100])
    (copied(models_transformers_speech.ctc(), tmp_path / "deaf") / "preprocessor_config.json").unlink()
    for name, says in (("weights", "is truncated"), ("deaf", "has no preprocessor_config.json")):
        body = {"name": name, "model_path": str(tmp_path / name)}
        response = served.http.post("/v1/models", json=body)
        assert response.status_code == 422, response.text
        assert says in response.json()["error"]["message"]
    assert served.get("/v1/models/letters")["backend"] == "transformers-speech"
