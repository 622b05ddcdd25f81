"""Speech to text through a real server: the native API, OpenAI's own client, many at once, and what goes wrong."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from serving import Server, wait_until

from tests import models, models_speech
from tests.models_speech import TEXTS
from tests.models_whisper_cpp import whisper_cpp

WAV = {"content-type": "audio/wav"}
PATIENT = {"x-request-timeout-ms": "600000"}


@pytest.fixture(scope="module")
def served(server: Server) -> Server:
    server.http.timeout = httpx.Timeout(600)
    server.register("whisper", models_speech.whisper(), config={"max_audio_s": 200})
    server.register("magika", models.magika())
    return server


@pytest.fixture(scope="module")
def client(served: Server) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=600, default_headers=PATIENT
    ) as one:
        yield one


def post(server: Server, content: bytes, query: str = "", **headers: str) -> httpx.Response:
    return server.http.post(
        f"/v1/models/whisper:predict{query}", content=content, headers={**WAV, **PATIENT, **headers}
    )


def error(response: httpx.Response, status: int = 400) -> tuple[str, str]:
    """The message and the field of an error."""
    assert response.status_code == status, response.text
    detail = response.json()["error"]
    return detail["message"], detail["param"]


def events(lines: Iterator[str]) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in lines if line]
    assert data[-1] == "[DONE]"
    return [json.loads(line) for line in data[:-1]]


# --- the native API -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wav", "mp3", "ogg", "m4a", "flac", "webm"])
def test_a_file_of_any_kind(served: Server, kind: str) -> None:
    answer = post(served, models_speech.encoded("0930", kind), **{"content-type": "application/octet-stream"}).json()
    assert answer["text"] == TEXTS["0930"]
    assert (answer["model"], answer["version"], answer["language"]) == ("whisper", 1, "en")
    assert answer["duration"] == pytest.approx(3.29, abs=0.1)


def test_segments_and_words(served: Server) -> None:
    answer = post(served, models_speech.clip("0870"), "?words=true&language=en&temperature=0").json()
    assert answer["text"] == TEXTS["0870"]
    assert "".join(s["text"] for s in answer["segments"]).strip() == answer["text"]
    assert [s["id"] for s in answer["segments"]] == list(range(len(answer["segments"])))
    words = [word for s in answer["segments"] for word in s["words"]]
    assert "".join(word["word"] for word in words).strip() == answer["text"]
    times = [time for word in words for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert times[-1] <= answer["duration"]
    assert all(0 <= word["probability"] <= 1 for word in words)
    assert "words" not in post(served, models_speech.clip("0930")).json()["segments"][0]


def test_json_and_data_urls(served: Server) -> None:
    encoded = base64.b64encode(models_speech.clip("0930")).decode()
    for text in (encoded, f"data:audio/wav;base64,{encoded}"):
        body = {"input": text, "parameters": {"words": True, "prompt": "Mr. Dashwood"}}
        answer = served.predict("whisper", body)
        assert answer["text"] == TEXTS["0930"]
        assert answer["segments"][0]["words"]


def test_a_stream_has_the_segments_as_they_come(served: Server) -> None:
    whole = post(served, models_speech.clip("0870")).json()
    with served.http.stream(
        "POST", "/v1/models/whisper:predict?stream=true", content=models_speech.clip("0870"), headers={**WAV, **PATIENT}
    ) as response:
        assert response.headers["content-type"] == "text/event-stream"
        first, *rest = events(response.iter_lines())
    assert (first["model"], first["language"], first["duration"], first["text"]) == ("whisper", "en", 7.1, "")
    assert "".join(event["text"] for event in rest) == whole["text"]
    assert [segment for event in rest for segment in event["segments"]] == whole["segments"]
    body = {"input": base64.b64encode(models_speech.clip("0930")).decode(), "stream": True}
    with served.http.stream("POST", "/v1/models/whisper:predict", json=body, headers=PATIENT) as response:
        assert events(response.iter_lines())[-1]["text"] == TEXTS["0930"]


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        ("?langage=en", "langage", "unknown field `langage`"),
        ("?words=perhaps", "words", "expected `bool`"),
        ("?language=de", "language", "This model knows English alone; got 'de'"),
        ("?task=translate", "task", "nothing to translate"),
        ("?task=sing", "task", "'sing'"),
        ("?temperature=7", "temperature", "from 0 to 1; got 7"),
    ],
)
def test_parameters_that_are_wrong(served: Server, query: str, field: str, says: str) -> None:
    message, named = error(post(served, models_speech.clip("0930"), query))
    assert says in message
    assert named == field


def test_bodies_that_are_wrong(served: Server) -> None:
    assert error(post(served, b"")) == ("The recording is empty.", "input")
    message, field = error(post(served, b"no sound" * 100))
    assert "cannot be decoded" in message
    assert field == "input"
    message, field = error(post(served, b"x", **{"content-type": "text/plain"}), 415)
    assert "send the file itself as audio/*" in message

    def post_json(body: Any) -> httpx.Response:
        return served.http.post("/v1/models/whisper:predict", json=body)

    assert "not valid base64" in error(post_json({"input": "???"}))[0]
    assert error(post_json({"inputs": "AAAA"}))[1] == "inputs"
    assert error(post_json({"input": "AAAA", "parameters": {"nope": 1}}))[1] == "parameters"
    response = served.http.post("/v1/models/whisper:predict?words=true", json={"input": "AAAA"})
    assert "A JSON body has its parameters in it" in error(response)[0]


def test_a_recording_that_is_too_long(served: Server) -> None:
    silence = models_speech.wav(np.zeros(201 * models_speech.RATE, np.int16))
    message, field = error(post(served, silence))
    assert "201.0 s or longer; max_audio_s allows 200 s" in message
    assert field == "input"
    with served.http.stream("POST", "/v1/models/whisper:predict?stream=1", content=silence, headers=WAV) as response:
        response.read()
        assert error(response)[1] == "input"  # before the stream, with a status of its own


# --- OpenAI's client ------------------------------------------------------------------------------------------------


def test_transcriptions(client: OpenAI) -> None:
    answer = client.audio.transcriptions.create(model="whisper", file=("a.wav", models_speech.clip("0870")))
    assert answer.text == TEXTS["0870"]
    assert answer.usage is not None
    assert (answer.usage.type, answer.usage.seconds) == ("duration", 8)


def test_formats(client: OpenAI) -> None:
    def ask(**wishes: Any) -> Any:
        clip = ("a.wav", models_speech.clip("0870"))
        return client.audio.transcriptions.create(**{"model": "whisper", "file": clip, **wishes})

    assert ask(response_format="text") == TEXTS["0870"] + "\n"
    assert ask(response_format="srt").startswith("1\n00:00:00,000 --> 00:00:05,")
    assert ask(response_format="vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:05.")
    verbose = ask(response_format="verbose_json", language="en", temperature=0)
    assert (verbose.text, verbose.language, verbose.duration) == (TEXTS["0870"], "en", 7.1)
    assert "".join(s.text for s in verbose.segments).strip() == verbose.text
    assert verbose.segments[0].tokens
    assert verbose.words is None
    words = ask(response_format="verbose_json", timestamp_granularities=["word"])
    assert [w.word for w in words.words] == TEXTS["0870"].split()
    assert words.segments is None
    both = ask(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert both.words
    assert both.segments


def test_a_stream_of_events(client: OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        model="whisper", file=("a.wav", models_speech.clip("0870")), stream=True, chunking_strategy="auto"
    )
    *deltas, done = list(stream)
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) > 1
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text == TEXTS["0870"]


def refused(call: Callable[[], Any], kind: type[openai.APIStatusError] = openai.BadRequestError) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        call()
    body: Any = caught.value.body
    return body["message"], body["param"]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's word on translations
def test_requests_that_are_refused(client: OpenAI) -> None:
    good = ("a.wav", models_speech.clip("0930"))

    def ask(**wishes: Any) -> tuple[str, str]:
        return refused(lambda: client.audio.transcriptions.create(**{"model": "whisper", "file": good, **wishes}))

    assert "knows English alone" in ask(language="de")[0]
    assert ask(file=("a.mp3", b"damaged"))[1] == "file"
    assert ask(file=("a.mp3", b""))[1] == "file"
    assert ask(response_format="srt", stream=True)[1] == "response_format"
    assert ask(timestamp_granularities=["word"])[1] == "timestamp_granularities[]"
    assert ask(include=["logprobs"])[1] == "include"
    assert ask(response_format="poem")[1] == "response_format"
    assert ask(extra_body={"nope": 1})[1] == "nope"
    assert ask(extra_body={"temperature": "hot"})[1] == "temperature"
    message, field = ask(model="magika")
    assert "is for the task" in message
    assert field == "model"
    message, field = refused(lambda: client.audio.translations.create(model="whisper", file=good))
    assert "nothing to translate" in message
    assert field == "model"
    refused(lambda: client.audio.transcriptions.create(model="nobody", file=good), openai.NotFoundError)


def test_a_model_for_speech_does_not_chat(client: OpenAI) -> None:
    hi: Any = {"role": "user", "content": "Hi"}
    message, field = refused(lambda: client.chat.completions.create(model="whisper", messages=[hi]))
    assert message == (
        "Model 'whisper' is for the task transcription, not for chat; use POST /v1/audio/transcriptions."
    )
    assert field == "model"


def test_a_request_that_is_no_form(served: Server) -> None:
    response = served.http.post("/v1/audio/transcriptions", json={"model": "whisper"})
    assert "takes multipart/form-data" in error(response, 415)[0]
    assert error(served.http.post("/v1/audio/transcriptions", files={"file": b"x"}))[1] == "model"


def test_a_step_of_a_pipeline(served: Server, tmp_path: Path) -> None:
    graph = tmp_path / "heard.yaml"
    graph.write_text(
        "steps:\n"
        "  heard: {model: whisper, parameters: {words: true}}\n"
        "output: {said: heard.text, first: 'heard.segments[0].words[0].word'}\n"
    )
    served.register("heard", graph)
    encoded = base64.b64encode(models_speech.clip("0930")).decode()
    assert served.predict("heard", {"input": encoded})["output"] == {"said": TEXTS["0930"], "first": " He"}
    response = served.http.post("/v1/models/heard:predict", content=models_speech.clip("0930"), headers=WAV)
    assert response.json()["output"]["said"] == TEXTS["0930"]
    message, _ = error(served.http.post("/v1/models/heard:predict", json={"input": [1]}))
    assert message.startswith("Step 'heard' (whisper): Expected `str`")


# --- many at once, and what goes wrong ------------------------------------------------------------------------------


def test_many_at_once(served: Server) -> None:
    before = audio_seconds(served)
    names = [*TEXTS] * 2
    clips = {name: models_speech.clip(name) for name in TEXTS}
    with ThreadPoolExecutor(len(names)) as pool:
        texts = list(pool.map(lambda name: post(served, clips[name]).json()["text"], names))
    assert texts == [TEXTS[name] for name in names]
    heard = sum(len(models_speech.samples(name)) for name in names) / models_speech.RATE
    assert audio_seconds(served) - before == pytest.approx(heard, abs=0.1)
    assert served.status("whisper")["in_flight"] == 0


def audio_seconds(server: Server) -> float:
    lines = server.http.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("unimodel_audio_seconds_total") and "whisper" in line]
    return float(line.rpartition(" ")[2])


def test_a_client_that_leaves_is_not_transcribed_for(served: Server) -> None:
    long = models_speech.wav(models_speech.long_recording())
    with served.http.stream(
        "POST", "/v1/models/whisper:predict?stream=true", content=long, headers={**WAV, **PATIENT}
    ) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines).removeprefix("data: "))["duration"] == pytest.approx(98.92)
        assert served.status("whisper")["in_flight"] == 1
    wait_until(lambda: served.status("whisper")["in_flight"] == 0)
    assert post(served, models_speech.clip("0930")).json()["text"] == TEXTS["0930"]


def test_a_deadline(served: Server) -> None:
    long = models_speech.wav(models_speech.long_recording())
    message, _ = error(post(served, long, **{"x-request-timeout-ms": "700"}), 504)
    assert message.startswith("The deadline passed before")
    wait_until(lambda: served.status("whisper")["in_flight"] == 0)


def test_a_worker_that_dies_loses_no_request_that_had_not_begun(served: Server) -> None:
    """A whole answer is computed again from its beginning; of a stream, what was sent cannot be taken back."""
    served.register("fragile", models_speech.whisper(), config={"isolated": True})
    long = models_speech.wav(models_speech.long_recording()[: 40 * models_speech.RATE])
    whole: list[dict[str, Any]] = []

    def ask() -> None:
        answer = httpx.post(
            f"{served.url}/v1/models/fragile:predict", content=long, headers={**WAV, **PATIENT}, timeout=600
        )
        whole.append(answer.json())

    thread = threading.Thread(target=ask)
    thread.start()
    url = f"{served.url}/v1/models/fragile:predict?stream=true"
    with httpx.stream("POST", url, content=long, headers={**WAV, **PATIENT}, timeout=600) as response:
        lines = response.iter_lines()
        next(lines)
        wait_until(lambda: served.status("fragile")["in_flight"] == 2)
        time.sleep(0.2)
        os.kill(served.status("fragile")["instances"][0]["pid"], signal.SIGKILL)
        rest = list(lines)
    assert any("worker_died" in line for line in rest), rest
    thread.join(600)
    assert whole[0]["text"].startswith(TEXTS["0870"]), whole
    assert whole[0]["duration"] == 40.0


def test_a_folder_that_is_damaged_is_refused_and_the_server_goes_on(served: Server, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for source in models_speech.whisper().iterdir():
        (folder / source.name).write_bytes(source.read_bytes()[: 1 << 20])
    response = served.http.post("/v1/models", json={"name": "damaged", "model_path": str(folder)})
    assert "model.bin is corrupt: it ends too early" in error(response, 422)[0]
    assert post(served, models_speech.clip("0930")).json()["text"] == TEXTS["0930"]


def test_what_the_server_says_of_the_model(served: Server) -> None:
    view = served.get("/v1/models/whisper")
    assert (view["task"], view["backend"], view["streams"]) == ("transcription", "whisper", True)
    assert view["transcription"] == {"sequences": 8, "languages": ["en"], "translates": False}
    assert served.predict("whisper", view["example"])["duration"] == 0.1


# --- whisper.cpp ----------------------------------------------------------------------------------------------------


def test_a_file_of_whisper_cpp_is_heard_through_openais_client(served: Server, client: OpenAI) -> None:
    served.register("ggml", whisper_cpp())
    answer = client.audio.transcriptions.create(
        model="ggml",
        file=("talk.mp3", models_speech.encoded("0930", "mp3")),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert answer.text == TEXTS["0930"]
    assert answer.words is not None
    assert " ".join(word.word for word in answer.words) == TEXTS["0930"]
