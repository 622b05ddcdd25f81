"""Telling apart what the user gave to `unimodel predict`."""

import base64
import json

import pytest

from unimodel_cli import inputs
from unimodel_cli.errors import UsageError
from unimodel_cli.inputs import As, Given, body, from_bytes, read, wrap

PNG = b"\x89PNG\r\n\x1a\n rest"


def never() -> bool:
    raise AssertionError("the server need not be asked for this")


def request(*given: Given, named=None, parameters=None, stream=False, plugin=never):
    made = body(list(given), named or {}, parameters or {}, stream, plugin)
    return json.loads(made.content) if made.content_type == "application/json" else made


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ('"quoted"', "quoted"),
        ("5.5", 5.5),
        ("true", True),
        ("what a fine day", "what a fine day"),
        ("it is 5", "it is 5"),
        ("NaN", "NaN"),
        ("1.5.2", "1.5.2"),
        ("", ""),
        ("a" * 5000, "a" * 5000),
    ],
)
def test_an_argument_is_json_if_it_can_be_and_text_otherwise(text, value):
    assert read(text, None) == Given(value)


@pytest.mark.parametrize("text", ["[1, 2", '{"a": NaN}', "[1,, 2]"])
def test_what_begins_like_json_must_be_json(text):
    with pytest.raises(UsageError, match=r"not valid JSON.*--as text"):
        read(text, None)
    assert read(text, As.text) == Given(text)


@pytest.mark.parametrize("name", ["cat.jpg", "rows.json", "./notes", "/tmp/missing", "~/x", "a.npy", "speech.wav"])
def test_a_file_that_is_not_there_is_not_taken_for_text(name):
    with pytest.raises(UsageError, match=r"No file.*--as text"):
        read(name, None)
    assert read(name, As.text) == Given(name)


def test_a_number_can_be_text():
    assert read("42", None) == Given(42)
    assert read("42", As.text) == Given("42")
    with pytest.raises(UsageError, match="not valid JSON"):
        read("forty-two", As.json)


@pytest.mark.parametrize(
    ("file", "data", "given"),
    [
        ("a.png", PNG, Given(data=PNG, content_type="image/png")),
        ("no-extension", PNG, Given(data=PNG, content_type="image/png")),
        ("wrong.txt", PNG, Given(data=PNG, content_type="image/png")),
        ("a.jpg", b"\xff\xd8\xff\xe0", Given(data=b"\xff\xd8\xff\xe0", content_type="image/jpeg")),
        ("a.bin", b"\x93NUMPY\x01\x00", Given(data=b"\x93NUMPY\x01\x00", content_type="application/x-npy")),
        ("a.wav", b"RIFF\0\0\0\0WAVE", Given(data=b"RIFF\0\0\0\0WAVE", content_type="audio/wav")),
        ("a.heic", b"\0\0\0\x18ftyp", Given(data=b"\0\0\0\x18ftyp", content_type="image/heic")),
        ("a.json", b"[1, 2]\n", Given([1, 2])),
        ("a.txt", b"[1, 2]\n", Given("[1, 2]")),
        ("other", "grüße\n".encode(), Given("grüße")),
    ],
)
def test_files_are_told_apart_by_their_bytes_then_by_their_names(tmp_path, file, data, given):
    (tmp_path / file).write_bytes(data)
    assert read(str(tmp_path / file), None) == given


@pytest.mark.parametrize(
    ("file", "data", "problem"),
    [
        ("a.json", b"{", "not valid JSON at line 1"),
        ("a.jsonl", b"[1]\n[2]\n", "--jsonl"),
        ("a.bin", b"\xff\x00\xff", "neither text nor a known kind"),
        ("a.txt", b"", "is empty"),
    ],
)
def test_files_that_cannot_be_an_input(tmp_path, file, data, problem):
    (tmp_path / file).write_bytes(data)
    with pytest.raises(UsageError, match=problem):
        read(str(tmp_path / file), None)


def test_an_unknown_image_can_be_sent_as_one():
    assert from_bytes(b"\x00\xff", As.image, "a.raw") == Given(data=b"\x00\xff", content_type="image/*")


def test_one_file_of_a_medium_is_the_whole_body():
    image = Given(data=PNG, content_type="image/png")
    assert request(image) == inputs.Body(PNG, "image/png")
    encoded = base64.b64encode(PNG).decode()
    assert request(image, parameters={"top_k": 1}, plugin=lambda: False) == {
        "input": encoded,
        "parameters": {"top_k": 1},
    }
    assert request(image, image) == {"input": [encoded, encoded]}


def test_an_array_file_goes_alone():
    array = Given(data=b"\x93NUMPY", content_type="application/x-npy")
    assert request(array) == inputs.Body(b"\x93NUMPY", "application/x-npy")
    with pytest.raises(UsageError, match="whole body"):
        request(array, array)


def test_several_inputs_are_a_batch():
    assert request(Given([1]), Given([2])) == {"input": [[1], [2]]}


def test_a_whole_body_stays_as_it_is():
    for key in ("input", "instances", "inputs"):
        assert wrap({key: 1, "parameters": {}}, never) == {key: 1, "parameters": {}}
    assert wrap([1], never) == {"input": [1]}


def test_an_object_is_a_plugins_body_and_a_models_row():
    assert wrap({"age": 3}, lambda: True) == {"age": 3}
    assert wrap({"age": 3}, lambda: False) == {"input": {"age": 3}}


def test_named_inputs_parameters_and_stream():
    assert request(named={"x": [1]}, plugin=lambda: False) == {"input": {"x": [1]}}
    assert request(named={"x": [1]}, plugin=lambda: True) == {"x": [1]}
    assert request(Given("a"), parameters={"k": 1}, plugin=lambda: True) == {"input": "a", "k": 1}
    assert request(Given("a"), stream=True) == {"input": "a", "stream": True}
    given = Given({"input": 1, "parameters": {"a": 1, "b": 1}})
    assert request(given, parameters={"b": 2}, plugin=lambda: False)["parameters"] == {"a": 1, "b": 2}
