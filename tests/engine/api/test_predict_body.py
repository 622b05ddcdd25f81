"""Bodies of predictions: what becomes of each kind, and what the errors say of those that do not fit."""

from __future__ import annotations

import io
import json
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends.base import ModelInfo, TensorSpec
from engine.api import predict_body
from engine.api.http import Headers
from engine.api.predict_body import JSON, NPY, OCTETS, SMALL_JSON, PredictBody, answer_body, media_type, parse
from engine.errors import InvalidRequest, UniModelError
from engine.plain_decoder import PlainDecoder
from engine.scheduling.dispatcher import Dispatcher
from engine.transport.messages import Loaded
from engine.types import Answer, BytesInput, Input, JsonAnswer, JsonInput, Request, TensorAnswer, TensorInput

X = TensorSpec("x", "float32", ("batch", 3))
IDS = TensorSpec("ids", "int64", ("batch", "length"))
RATE = TensorSpec("rate", "int64", (), None)
WORDS = TensorSpec("words", "string", ("batch",))
PIXELS = TensorSpec("pixels", "float32", ("batch", "height", "width"))
FLAGS = TensorSpec("flags", "bool", ("batch", "n"))


def model(*inputs: TensorSpec, task: str = "tensor", outputs: tuple[TensorSpec, ...] = ()) -> Loaded:
    return Loaded(
        key="m#1",
        info=ModelInfo(task=task, inputs=inputs, outputs=outputs),
        task=task,
        plain_answers=task != "image-classification",
        decodes_json=bool(inputs) and all(s.dtype != "string" for s in inputs) and task in ("tensor", "tabular"),
        accepts_values=not inputs,
        batch_reason=None,
        padding_reason=None,
        example=b"",
        memory_bytes=0,
        seconds=0.0,
    )


def parsed(
    body: bytes, *inputs: TensorSpec, fast: bool = False, loaded: Loaded | None = None, **headers: str
) -> tuple[Input, bytes, bool]:
    """`headers` by their names, with underscores for dashes."""
    decoder = PlainDecoder(inputs[0]) if fast else None
    raw = Headers({k.replace("_", "-").encode(): v.encode("latin-1") for k, v in headers.items()})
    return parse(body, raw, loaded or model(*inputs), decoder, 32)


def refused(*args: Any, **kwargs: Any) -> UniModelError:
    with pytest.raises(InvalidRequest) as e:
        parsed(*args, **kwargs)
    return e.value


# -- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("body", "tensor", "form", "single"),
    [
        (b'{"input":[1,2,3]}', [[1, 2, 3]], "input", True),
        (b' { "input" : [ [ 1 , 2, 3 ] ] } ', [[1, 2, 3]], "input", False),
        (b'{"input":{"x":[1,2,3]}}', [[1, 2, 3]], "input", True),
        (b'{"instances":[[1,2,3],[4,5,6]]}', [[1, 2, 3], [4, 5, 6]], "instances", False),
        (b'{"instances":[{"x":[1,2,3]}]}', [[1, 2, 3]], "instances", False),
        (b'{"inputs":[[1,2,3]]}', [[1, 2, 3]], "inputs", False),
    ],
)
def test_small_json_becomes_tensors(body: bytes, tensor: Any, form: str, single: bool, fast: bool) -> None:
    source, parameters, stream = parsed(body, X, fast=fast)
    assert isinstance(source, TensorInput)
    np.testing.assert_array_equal(source.tensors["x"], np.array(tensor, np.float32), strict=True)
    assert (source.form, source.single, source.rows) == (form, single, len(tensor))
    assert (parameters, stream) == (b"", False)


@pytest.mark.parametrize(
    "kind", ["", JSON, "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.me+json"]
)
def test_json_by_any_name(kind: str) -> None:
    assert isinstance(parsed(b'{"input":[1,2,3]}', X, content_type=kind)[0], TensorInput)


def test_several_inputs_have_their_rows_counted_by_their_batch_axes() -> None:
    source, _, _ = parsed(b'{"input":{"x":[[1,2,3],[4,5,6]],"rate":16000}}', X, RATE)
    assert source.rows == 2
    assert isinstance(source, TensorInput)
    assert source.tensors["rate"].shape == ()


def test_what_only_the_worker_can_decode_goes_there() -> None:
    texts, _, _ = parsed(b'{"input":["one","two"]}', WORDS)
    assert texts == JsonInput(b'["one","two"]', "input", 2)
    named, _, _ = parsed(b'{"instances":[{"x":null}]}', X, loaded=model(X, task="tabular"))
    assert named == JsonInput(b'[{"x":null}]', "instances", 1)
    large = json.dumps([[0.5] * 10_000]).encode()
    assert len(large) > SMALL_JSON
    assert parsed(b'{"input":%s}' % large, IDS)[0] == JsonInput(large, "input", 32)


@pytest.mark.parametrize(("fast", "columns"), [(False, 3), (True, 3)])
def test_parameters_and_the_wish_to_stream_come_along(fast: bool, columns: int) -> None:
    body = b'{"input":[1,2,3],"parameters":{},"stream":true}'
    _, parameters, stream = parsed(body, X, fast=fast)
    assert (parameters, stream) == (b"{}", True)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("body", "code", "field", "words"),
    [
        (b"", "invalid_json", None, "not valid JSON"),
        (b"{", "invalid_json", None, "not valid JSON"),
        (b'{"input":[1,2,NaN]}', "invalid_json", None, "not valid JSON"),
        (b'{"input":[1,2,3]}x', "invalid_json", None, "not valid JSON"),
        (b'{"input":[1,2,3],"input":', "invalid_json", None, "not valid JSON"),
        (b"\xff\xfe", "invalid_json", None, "not valid JSON"),
        (b'{"input":["\xff"]}', "invalid_json", None, "not valid JSON"),
        (b'{"\xff":[1,2,3]}', "invalid_json", None, "not valid JSON"),
        (b'{"input":[1,2,3],"parameters":{"\xff":1}}', "invalid_input", "parameters", "parameters: 'utf-8' codec"),
        (b"[1,2,3]", "invalid_input", None, "Expected `object`, got `array`"),
        (b"{}", "invalid_input", "input", "exactly one of 'input', 'instances' and 'inputs'; got none of them"),
        (b'{"input":[1,2,3],"instances":[]}', "invalid_input", "input", "got input, instances"),
        (b'{"input":[[1,2,3]],"instances":null}', "invalid_input", "input", "got input, instances"),
        (b'{"instances":[[1,2,3]],"input":null}', "invalid_input", "input", "got input, instances"),
        (b'{"inptu":[1,2,3]}', "invalid_input", "inptu", "unknown field `inptu`"),
        (b'{"input":[1,2,3],"stream":1}', "invalid_input", "stream", "stream: expected `bool`, got `int`"),
        (b'{"input":null}', "invalid_input", "input", "must hold numbers (float32); got null"),
        (b'{"input":[1,2]}', "invalid_input", "input", "must have shape [batch, 3]; got [1, 2]"),
        (b'{"input":[[1,2],[3]]}', "invalid_input", "input", "ragged"),
        (b'{"input":["a","b","c"]}', "invalid_input", "input", "must hold numbers (float32); got a string"),
        (b'{"input":[1,2,1e99]}', "invalid_input", "input", "does not fit float32"),
        (b'{"instances":[]}', "invalid_input", "instances", "non-empty list of rows"),
        (b'{"input":[1,2,3],"parameters":{"top_k":3}}', "invalid_input", "parameters.top_k", "means nothing"),
        (b'{"input":[1,2,3],"parameters":{"topk":3}}', "invalid_input", "parameters", "unknown field `topk`"),
        (b'{"input":[1,2,3],"parameters":[]}', "invalid_input", "parameters", "Expected `object`, got `array`"),
        (b'{"input":[1,2,3],"parameters":null}', "invalid_input", "parameters", "Expected `object`, got `null`"),
        (b'{"input":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "invalid_json", None, "nested too deeply"),
    ],
)
def test_json_that_does_not_fit(body: bytes, code: str, field: str | None, words: str, fast: bool) -> None:
    error = refused(body, X, fast=fast)
    assert (error.code, error.field) == (code, field)
    assert words in error.message


@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode), st.booleans())
def test_no_body_breaks_the_parser(body: bytes, fast: bool) -> None:
    for kind in ("", JSON, NPY, OCTETS, "image/png", "text/html"):
        try:
            parsed(body, X, fast=fast, content_type=kind, x_tensor_dtype="float32", x_tensor_shape="1,3")
        except InvalidRequest as e:
            assert e.message


# -- models of JSON values --------------------------------------------------------------------------------------------


def test_a_plugin_gets_its_body_whole() -> None:
    body = b'{"any":"thing","stream":true,"input":{}}'
    assert parsed(body) == (JsonInput(body), b"", True)
    assert parsed(b'{"parameters":5}') == (JsonInput(b'{"parameters":5}'), b"", False)


@pytest.mark.parametrize(
    ("body", "kind", "code", "field"),
    [
        (b"[]", JSON, "invalid_input", None),
        (b"{", JSON, "invalid_json", None),
        (b'{"stream":"yes"}', JSON, "invalid_input", "stream"),
        (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", JSON, "invalid_json", None),
        (b"\x89PNG", "image/png", "unsupported_media_type", "content-type"),
        (b"", OCTETS, "unsupported_media_type", "content-type"),
    ],
)
def test_a_plugin_gets_no_other_body(body: bytes, kind: str, code: str, field: str | None) -> None:
    error = refused(body, content_type=kind)
    assert (error.code, error.field) == (code, field)


# -- other kinds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png; q=1", "audio/wav", "text/plain; charset=utf-8"])
def test_raw_bodies_go_to_the_worker(kind: str) -> None:
    assert parsed(b"\xff\xd8", X, content_type=kind)[0] == BytesInput(b"\xff\xd8", media_type(kind))


@pytest.mark.parametrize("kind", ["text/html", "multipart/form-data; boundary=x", "video/mp4", "nonsense", "é"])
def test_unknown_kinds_are_refused(kind: str) -> None:
    error = refused(b"x", X, content_type=kind)
    assert (error.code, error.status, error.field) == ("unsupported_media_type", 415, "content-type")


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, ""), ("", ""), ("A/B", "a/b"), ("a/b;c=d", "a/b"), (" a/b ; c", "a/b"), (";", "")],
)
def test_media_types(value: str | None, kind: str) -> None:
    assert media_type(value) == kind


# -- binary tensors ---------------------------------------------------------------------------------------------------


def octets(array: Any, **headers: str) -> dict[str, Any]:
    array = np.asarray(array)
    shape = ",".join(map(str, array.shape))
    return {"content_type": OCTETS, "x_tensor_dtype": array.dtype.name, "x_tensor_shape": shape} | headers


ROW = np.array([[1, 2, 3]], np.float32)


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version)
    return file.getvalue()


def npy_header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize("binary", ["octets", "npy"])
@given(st.data())
def test_every_dtype_that_loses_nothing_is_taken(binary: str, data: st.DataObject) -> None:
    want = data.draw(st.sampled_from(["float64", "float32", "int64", "int16", "uint8", "bool"]))
    given_dtypes = hnp.scalar_dtypes().filter(lambda d: d.kind in "biuf" and np.can_cast(d, want, "safe"))
    dtype = data.draw(given_dtypes)
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=4)))
    spec = TensorSpec("x", want, ("batch", "n"))
    if binary == "npy":
        order: Any = data.draw(st.sampled_from("CF"))
        version = data.draw(st.sampled_from([(1, 0), (2, 0), (3, 0)]))
        source, _, _ = parsed(npy(np.asarray(array, order=order), version), spec, content_type=NPY)
    else:
        headers = octets(array, x_tensor_dtype=dtype.str)
        source, _, _ = parsed(array.tobytes(), spec, **headers)
    assert isinstance(source, TensorInput)
    got = source.tensors["x"]
    np.testing.assert_array_equal(got, array.astype(want), strict=True)
    assert got.dtype == np.dtype(want)
    assert got.dtype.isnative
    assert got.flags.c_contiguous
    assert (source.rows, source.single, source.form) == (len(array), False, "input")


@pytest.mark.parametrize(("shape", "dims"), [("", ()), (" ", ())])
def test_a_scalar_has_no_dimensions(shape: str, dims: tuple[int, ...]) -> None:
    source, _, _ = parsed(np.int64(7).tobytes(), RATE, **octets(np.int64(7), x_tensor_shape=shape))
    assert isinstance(source, TensorInput)
    assert source.tensors["rate"].shape == dims
    assert parsed(npy(np.int64(7)), RATE, content_type=NPY)[0].rows == 1


def test_a_tensor_of_the_right_dtype_is_not_copied() -> None:
    body = bytearray(ROW.tobytes())
    source, _, _ = parsed(cast(bytes, body), X, **octets(ROW))
    assert isinstance(source, TensorInput)
    body[:4] = np.float32(9).tobytes()
    assert source.tensors["x"][0, 0] == 9


def test_spaces_in_a_shape() -> None:
    assert parsed(ROW.tobytes(), X, **octets(ROW, x_tensor_shape=" 1, 3 "))[0].rows == 1


def test_booleans_are_zero_or_one_whatever_the_bytes() -> None:
    source, _, _ = parsed(b"\0\1\2\xff", FLAGS, **octets(np.zeros((1, 4), bool)))
    assert isinstance(source, TensorInput)
    assert source.tensors["flags"].view(np.uint8).tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("headers", "code", "field", "words"),
    [
        ({"x_tensor_name": "y"}, "invalid_input", "x-tensor-name", "no input 'y'; its input is 'x'"),
        ({"x_tensor_shape": "3"}, "invalid_input", "body", "must have shape [batch, 3]; got [3]"),
        ({"x_tensor_shape": "1,4"}, "invalid_input", "body", "must have shape [batch, 3]; got [1, 4]"),
        ({"x_tensor_shape": "2,3"}, "invalid_input", "body", "Shape [2,3] of float32 needs 24 bytes; the body has 12"),
        ({"x_tensor_shape": "0,3"}, "invalid_input", "body", "has no rows"),
        ({"x_tensor_shape": "9" * 18 + ",3"}, "invalid_input", "body", "bytes; the body has 12"),
        ({"x_tensor_shape": "-1,3"}, "invalid_request", "x-tensor-shape", "must be like '1,3,224,224'; got '-1,3'"),
        ({"x_tensor_shape": "1,,3"}, "invalid_request", "x-tensor-shape", "must be like"),
        ({"x_tensor_shape": "1x3"}, "invalid_request", "x-tensor-shape", "must be like"),
        ({"x_tensor_shape": "1_0,3"}, "invalid_request", "x-tensor-shape", "must be like"),
        ({"x_tensor_shape": "²,3"}, "invalid_request", "x-tensor-shape", "must be like"),
        ({"x_tensor_shape": "9" * 5000}, "invalid_request", "x-tensor-shape", "must be like"),
        ({"x_tensor_dtype": "float64"}, "invalid_input", "x-tensor-dtype", "is float32; got 'float64'"),
        *(
            ({"x_tensor_dtype": name}, "invalid_input", "x-tensor-dtype", "Input 'x' is float32; got")
            for name in (
                *("int64", "complex64", "str", "U5", "S3", "O", "V4", "M8[s]", "float128", "string", "flaot32", "é"),
                *("", "f4,f4", "(2,)f4", "(2,", "i4,,", "99999999999999f4", "(", "a5", "f" * 9999),
            )
        ),
    ],
)
def test_octets_that_do_not_fit(headers: dict[str, str], code: str, field: str, words: str) -> None:
    error = refused(ROW.tobytes(), X, **octets(ROW, **headers))
    assert (error.code, error.field) == (code, field)
    assert words in error.message
    assert len(error.message) < 500


@pytest.mark.parametrize(
    ("missing", "field"), [("x_tensor_dtype", "x-tensor-dtype"), ("x_tensor_shape", "x-tensor-shape")]
)
def test_octets_need_their_headers(missing: str, field: str) -> None:
    headers = octets(ROW)
    del headers[missing]
    error = refused(ROW.tobytes(), X, **headers)
    assert (error.code, error.field) == ("invalid_request", field)
    assert "such as 'float32' and '1,3'" in error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not a .npy array"),
        (b"\x93NUMPY", "not a .npy array"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "not a .npy array"),
        (b"PK\3\4" + b"x" * 100, "not a .npy array"),
        (npy(ROW)[:-1], "Shape [1,3] of float32 needs 12 bytes; the body has 11"),
        (npy(ROW) + b"x", "Shape [1,3] of float32 needs 12 bytes; the body has 13"),
        (npy(ROW)[:20], "not a .npy array"),
        (b"\x93NUMPY\x09\0" + npy(ROW)[8:], "not a .npy array"),
        (npy(ROW.T), "must have shape [batch, 3]; got [3, 1]"),
        (npy(ROW[0]), "must have shape [batch, 3]; got [3]"),
        (npy(ROW[:0]), "has no rows"),
        (npy(ROW.astype("float64")), "Input 'x' is float32; got 'float64'"),
        (npy(ROW.astype("complex64")), "Input 'x' is float32; got 'complex64'"),
        (npy(np.array([["a"]])), "Input 'x' is float32; got 'str32'"),
        (npy(np.zeros((1, 3), "M8[s]")), "Input 'x' is float32; got 'datetime64[s]'"),
        (npy(np.zeros((1,), [("a", "f4"), ("b", "f4")])), "Input 'x' is float32; got 'void64'"),
        (npy(np.array([[{}]])), "Input 'x' is float32; got 'object'"),
        *(
            (npy_header(header, ROW.tobytes()), words)
            for header, words in {
                "{": "not a .npy array",
                "{}": "not a .npy array",
                "1 + 1": "not a .npy array",
                "{'descr':'<f4','fortran_order':False,'shape':(-1,3)}": "not a .npy array: its shape is (-1, 3)",
                "{'descr':'<f4','fortran_order':False,'shape':(True,3)}": "not a .npy array",
                "{'descr':'<f4','fortran_order':False,'shape':(1,'3')}": "not a .npy array",
                "{'descr':'<f4','fortran_order':0,'shape':(1,3)}": "not a .npy array",
                "{'descr':'|V0','fortran_order':False,'shape':(1,3)}": "Input 'x' is float32; got 'void'",
                "{'descr':('<f4',(3,)),'fortran_order':False,'shape':(1,)}": "Input 'x' is float32; got",
                "{'descr':'<f4','fortran_order':False,'shape':(" + "9" * 25 + ",3)}": "bytes; the body has 12",
                "{'descr':'<f4','fortran_order':False,'shape':(1,3)," + " " * 20_000 + "}": "not a .npy array",
                "(" * 5_000: "not a .npy array",
            }.items()
        ),
    ],
)
def test_npy_that_does_not_fit(body: bytes, words: str) -> None:
    error = refused(body, X, content_type=NPY)
    assert (error.code, error.field) == ("invalid_input", "body")
    assert words in error.message
    assert "\n" not in error.message
    assert len(error.message) < 500


@pytest.mark.parametrize("rows", [1, 10**17])
def test_rows_without_elements_are_refused(rows: int) -> None:
    """A body of no bytes could claim any number of them."""
    error = refused(b"", IDS, content_type=OCTETS, x_tensor_dtype="int64", x_tensor_shape=f"{rows},0")
    assert (error.code, error.field, error.message) == ("invalid_input", "body", f"Shape [{rows},0] has no elements.")
    header = npy_header(f"{{'descr':'<i8','fortran_order':False,'shape':({rows},0)}}")
    assert refused(header, IDS, content_type=NPY).message == error.message


def test_one_binary_body_is_one_tensor() -> None:
    for kind in (OCTETS, NPY):
        error = refused(b"", X, RATE, content_type=kind)
        assert error.message == "This model has the inputs x, rate; a binary body carries one. Send JSON."
        strings = refused(npy(ROW), WORDS, **octets(ROW, content_type=kind))
        assert strings.message == "Input 'words' holds strings; send JSON."


# -- answers ----------------------------------------------------------------------------------------------------------


class Served:
    """What `answer_body` asks of a dispatcher."""

    answer_head = b'{"model":"m","version":2,'

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded


def respond(
    answer: Answer, source: Input, loaded: Loaded, *, tensors: bool = False, **headers: str
) -> tuple[dict[str, str], bytes]:
    request = Request(source, "id", 0.0, wants_tensors=tensors)
    raw = Headers({k.replace("_", "-").encode(): v.encode() for k, v in headers.items()})
    content, body = answer_body(answer, request, cast(Dispatcher, Served(loaded)), raw)
    return {k.decode(): v.decode() for k, v in content}, bytes(body)


def test_each_form_has_its_own_key() -> None:
    for form, key in (("input", "output"), ("instances", "predictions"), ("inputs", "outputs")):
        for answer in (JsonAnswer(b"[[2.0]]"), TensorAnswer({"y": np.array([[2.0]])}, False)):
            source = TensorInput({}, 1, cast(Any, form))
            headers, body = respond(answer, source, model(X))
            assert headers == {"content-type": "application/json"}
            assert json.loads(body) == {"model": "m", "version": 2, key: [[2.0]]}
    _, body = respond(JsonAnswer(b'"cat"'), BytesInput(b"", "image/png"), model(X))
    assert json.loads(body) == {"model": "m", "version": 2, "output": "cat"}


@pytest.mark.parametrize("value", [{}, {"output": 1}, {"a": [1], "b": {}}])
def test_the_answer_of_a_plugin_gets_its_model_beside_it(value: dict[str, Any]) -> None:
    _, body = respond(JsonAnswer(msgspec.json.encode(value)), JsonInput(b"{}"), model())
    assert json.loads(body) == {"model": "m", "version": 2, **value}


def test_an_output_without_a_batch_axis_cannot_be_given_by_rows() -> None:
    loaded = model(X, outputs=(TensorSpec("mean", "float32", (), None),))
    with pytest.raises(InvalidRequest, match="no batch axis"):
        respond(TensorAnswer({"mean": np.array(1.0)}, False), TensorInput({}, 1, "instances"), loaded)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, False),
        ("*/*", False),
        (JSON, False),
        (OCTETS, True),
        ("Application/X-NPY; q=1", True),
        ("text/html", False),
    ],
)
def test_tensors_are_for_those_who_ask(accept: str | None, wanted: bool) -> None:
    headers = Headers({} if accept is None else {b"accept": accept.encode()})
    assert predict_body.wants_tensors(headers) == wanted


@given(hnp.arrays(st.sampled_from("?bBhHiIqQefdFD").map(np.dtype), hnp.array_shapes(min_dims=0, min_side=0)))
def test_binary_answers_say_what_they_are(array: np.ndarray[Any, Any]) -> None:
    answer, source = TensorAnswer({"y": array}, False), TensorInput({}, 1)
    headers, body = respond(answer, source, model(X), tensors=True, accept=OCTETS)
    assert headers["content-type"] == OCTETS
    assert headers["x-tensor-name"] == "y"
    shape = tuple(int(d) for d in headers["x-tensor-shape"].split(",") if d)
    got = np.frombuffer(body, headers["x-tensor-dtype"]).reshape(shape)
    np.testing.assert_array_equal(got, array)
    _, body = respond(answer, source, model(X), tensors=True, accept=NPY)
    np.testing.assert_array_equal(np.load(io.BytesIO(body)), array, strict=True)


def test_of_several_outputs_one_must_be_named() -> None:
    answer, source = TensorAnswer({"y": np.ones(1), "z": np.zeros(1)}, False), TensorInput({}, 1)
    for named in ({}, {"x_tensor_output": "nope"}):
        with pytest.raises(InvalidRequest) as e:
            respond(answer, source, model(X), tensors=True, accept=OCTETS, **named)
        assert e.value.field == "x-tensor-output"
        assert "y, z" in e.value.message
    headers, body = respond(answer, source, model(X), tensors=True, accept=OCTETS, x_tensor_output="z")
    assert (headers["x-tensor-name"], body) == ("z", bytes(8))


def test_the_envelope_is_what_the_documents_say() -> None:
    assert PredictBody.__struct_fields__ == ("input", "instances", "inputs", "parameters", "stream")


def test_a_field_that_is_missing_is_named() -> None:
    class Body(msgspec.Struct):
        input: str

    with pytest.raises(UniModelError, match="missing required field `input`") as error:
        predict_body.decode_json(msgspec.json.Decoder(Body).decode, b"{}")
    assert error.value.field == "input"
