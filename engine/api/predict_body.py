"""HTTP bodies of a prediction → the engine's `Request.input`, and answers → HTTP bodies. No model is called here."""

from __future__ import annotations

import io
import math
import re
from typing import Any, Literal

import msgspec
import numpy as np

from backends.base import BackendError, ModelInfo, Tensors, TensorSpec
from engine import codec
from engine.api.http import Body, Headers, RawHeaders, encode_json
from engine.codec import ANSWER_KEY, Form
from engine.errors import InvalidInput, InvalidJSON, InvalidRequest, UniModelError, UnsupportedMediaType, from_code
from engine.plain_decoder import PlainDecoder
from engine.scheduling.dispatcher import Dispatcher
from engine.tasks.base import Parameters
from engine.transport.messages import Loaded
from engine.types import (
    Answer,
    BytesInput,
    Input,
    JsonAnswer,
    JsonInput,
    Request,
    TensorAnswer,
    TensorInput,
    ValuesAnswer,
    ValuesInput,
)

SMALL_JSON = 32 * 1024
"""Bytes of JSON that the server decodes itself. Larger bodies are decoded in the worker, off the server's loop."""

NPY = "application/x-npy"
OCTETS = "application/octet-stream"
JSON = "application/json"
JSON_TYPES = ("", JSON, "application/x-www-form-urlencoded")  # the last is what `curl -d` sends by itself

_DIMENSION = re.compile(r"[0-9]{1,18}")


class PredictBody(msgspec.Struct, forbid_unknown_fields=True):
    """The envelope of a JSON prediction. The input itself stays undecoded until the signature is known."""

    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    instances: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: msgspec.Raw = msgspec.Raw()
    stream: bool = False


class StreamFlag(msgspec.Struct):
    """All that the server reads of a plugin's body."""

    stream: bool = False


_ANSWER_KEY: dict[Form, bytes] = {form: b'"%s":' % key.encode() for form, key in ANSWER_KEY.items()}

_decode_envelope = msgspec.json.Decoder(PredictBody).decode
_decode_flag = msgspec.json.Decoder(StreamFlag).decode
_decode_any = msgspec.json.Decoder().decode


def media_type(value: str | None) -> str:
    """A content type without its parameters."""
    return (value or "").partition(";")[0].strip().lower()


def decode_json(error_free: Any, body: bytes | bytearray) -> Any:
    """Runs a msgspec decoder; its errors come out as `InvalidJSON` or `InvalidInput` that name the place."""
    try:
        return error_free(body)
    except msgspec.ValidationError as e:
        text, _, where = str(e).partition(" - at `$.")
        place = where.rstrip("`")
        name = text.split("`")[1] if "unknown field" in text or "required field" in text else None
        problem = f"{place}: {text[0].lower()}{text[1:]}" if place else text
        raise InvalidInput(f"{problem}.", field=place or name) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidJSON(f"The body is not valid JSON: {e}.") from None
    except RecursionError:
        raise InvalidJSON("The JSON is nested too deeply.") from None


def parse(
    body: bytes | bytearray, headers: Headers, loaded: Loaded, decoder: PlainDecoder | None, max_rows: int
) -> tuple[Input, bytes, bool]:
    """The input, its undecoded ``parameters``, and whether a stream is asked for.

    Raises `InvalidInput`, `InvalidJSON` or `UnsupportedMediaType`.
    """
    kind = JSON if headers.get(b"content-type") == b"application/json" else media_type(headers.text(b"content-type"))
    if kind in JSON_TYPES or kind.endswith("+json"):
        if loaded.accepts_values:
            stream = decode_json(_decode_flag, body).stream
            return JsonInput(body), b"", stream
        if decoder is not None and len(body) <= SMALL_JSON:
            plain = decoder.decode(body)
            if plain is not None:
                if plain.parameters:
                    _check_parameters(plain.parameters, loaded)
                source = TensorInput({decoder.name: plain.array}, len(plain.array), plain.form, plain.single)
                return source, plain.parameters, plain.stream
        return _parse_envelope(decode_json(_decode_envelope, body), loaded, max_rows)
    if loaded.accepts_values:
        raise UnsupportedMediaType(f"This model takes {JSON}; got {kind}.", field="content-type")
    if kind == OCTETS:
        return _raw_tensor(body, headers, loaded.info), b"", False
    if kind == NPY:
        return _npy(body, headers, loaded.info), b"", False
    if kind.startswith(("image/", "audio/")) or kind == "text/plain":
        return BytesInput(body, kind), b"", False
    raise UnsupportedMediaType(
        f"Cannot decode {kind!r}; send {JSON}, {OCTETS}, {NPY} or an image.", field="content-type"
    )


def _parse_envelope(envelope: PredictBody, loaded: Loaded, max_rows: int) -> tuple[Input, bytes, bool]:
    form, data = _the_input(envelope)
    parameters = bytes(envelope.parameters)
    if parameters:
        _check_parameters(parameters, loaded)
    if loaded.decodes_json and len(data) <= SMALL_JSON and _is_plain(data, loaded):
        try:
            tensors, single, _ = codec.decode(form, decode_json(_decode_any, data), loaded.info.inputs)
        except BackendError as e:
            raise translated(e) from None
        return TensorInput(tensors, rows_of(tensors, loaded.info), form, single), parameters, envelope.stream
    return JsonInput(data, form, estimated_rows(data, max_rows)), parameters, envelope.stream


def estimated_rows(data: bytes, max_rows: int) -> int:
    """About how many rows are in JSON that only the worker decodes. Images and texts are strings, one for each row."""
    begin = data[:64].lstrip(b" \t\r\n[")[:1]
    if begin == b'"':
        return max(1, data.count(b'"') // 2)
    return max_rows if len(data) > SMALL_JSON else 1  # a large tensor gets a batch of its own


def _check_parameters(raw: bytes, loaded: Loaded) -> None:
    """Raises `InvalidInput` for parameters that are unknown, or mean nothing to this model."""
    try:
        parameters = msgspec.json.decode(raw, type=Parameters)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidInput(f"parameters: {str(e).partition(' - at')[0]}.", field="parameters") from None
    given = [name for name in Parameters.__struct_fields__ if getattr(parameters, name) is not None]
    if given and loaded.plain_answers:
        raise InvalidInput(
            f"{given[0]} means nothing to this model: its answer is its outputs as they are.",
            field=f"parameters.{given[0]}",
        )


def _the_input(envelope: PredictBody) -> tuple[Form, bytes]:
    forms: list[Form] = [form for form in ANSWER_KEY if getattr(envelope, form) is not msgspec.UNSET]
    if len(forms) != 1:
        given = ", ".join(forms) or "none of them"
        raise InvalidInput(
            f"The body must have exactly one of 'input', 'instances' and 'inputs'; got {given}.", field="input"
        )
    return forms[0], bytes(getattr(envelope, forms[0]))


def _is_plain(data: bytes, loaded: Loaded) -> bool:
    """Whether plain tensors are all that this JSON can be. Tables may also have named columns and nulls."""
    if loaded.task == "tensor":
        return True
    return b"{" not in data and b"null" not in data


def translated(error: BackendError) -> UniModelError:
    """A backend's error as the engine's own."""
    return from_code(error.code, error.message, field=error.field)


def rows_of(tensors: Tensors, info: ModelInfo) -> int:
    """How many rows the tensors of one request have. Raises `InvalidInput` when the inputs disagree."""
    rows = {tensors[s.name].shape[s.batch_axis] for s in info.inputs if s.batch_axis is not None}
    if len(rows) > 1:
        raise InvalidInput(f"The inputs have different numbers of rows: {sorted(rows)}.", field="input")
    return rows.pop() if rows else 1


def _single_input(info: ModelInfo, name: str | None) -> TensorSpec:
    if len(info.inputs) != 1:
        names = ", ".join(s.name for s in info.inputs)
        raise InvalidInput(f"This model has the inputs {names}; a binary body carries one. Send JSON.", field="input")
    spec = info.inputs[0]
    if name is not None and name != spec.name:
        raise InvalidInput(f"This model has no input {name!r}; its input is {spec.name!r}.", field="x-tensor-name")
    return spec


def _raw_tensor(body: bytes | bytearray, headers: Headers, info: ModelInfo) -> TensorInput:
    spec = _single_input(info, headers.text(b"x-tensor-name"))
    dtype_name, shape_text = headers.text(b"x-tensor-dtype"), headers.text(b"x-tensor-shape")
    if dtype_name is None or shape_text is None:
        raise InvalidRequest(
            f"A body of {OCTETS} needs the headers x-tensor-dtype and x-tensor-shape, such as "
            f"{spec.dtype!r} and '{','.join(str(d) if isinstance(d, int) else '1' for d in spec.shape)}'.",
            field="x-tensor-dtype" if dtype_name is None else "x-tensor-shape",
        )
    dims = [d.strip() for d in shape_text.split(",")] if shape_text.strip() else []
    if not all(_DIMENSION.fullmatch(d) for d in dims):
        raise InvalidRequest(
            f"x-tensor-shape must be like '1,3,224,224'; got {shape_text[:100]!r}.", field="x-tensor-shape"
        )
    dtype = _sendable(dtype_name, spec, "x-tensor-dtype")
    return _tensor(memoryview(body), dtype, tuple(map(int, dims)), "C", spec, info)


def _npy(body: bytes | bytearray, headers: Headers, info: ModelInfo) -> TensorInput:
    spec = _single_input(info, headers.text(b"x-tensor-name"))
    header = io.BytesIO(body[:65536])
    try:
        major, _ = np.lib.format.read_magic(header)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(header)
        if any(type(d) is not int or d < 0 for d in shape):
            raise ValueError(f"its shape is {shape}")
    except Exception as e:  # the header is a Python expression, and NumPy's errors are as many as Python's
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise InvalidInput(f"The body is not a .npy array: {reason[:200]}.", field="body") from None
    dtype = _sendable(dtype, spec, "body")
    return _tensor(memoryview(body)[header.tell() :], dtype, shape, "F" if fortran else "C", spec, info)


def _sendable(wish: str | np.dtype[Any], spec: TensorSpec, field: str) -> np.dtype[Any]:
    """The dtype, if a client may send it for an input: the input's own, or one that loses nothing becoming it."""
    if spec.dtype == "string":
        raise InvalidInput(f"Input {spec.name!r} holds strings; send JSON.", field="content-type")
    try:
        dtype = np.dtype(wish)
    except Exception:  # NumPy has a language of dtypes, with many kinds of errors
        dtype = None
    if dtype is None or dtype.kind not in "biuf" or not np.can_cast(dtype, spec.dtype, "safe"):
        got = wish[:40] if isinstance(wish, str) else wish.name
        raise InvalidInput(f"Input {spec.name!r} is {spec.dtype}; got {got!r}.", field=field)
    return dtype


def _tensor(
    data: memoryview,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    order: Literal["C", "F"],
    spec: TensorSpec,
    info: ModelInfo,
) -> TensorInput:
    """The tensor whose elements are `data`, without a copy if it is as the model wants it."""
    try:
        codec.check_shape(shape, spec, "body")
    except BackendError as e:
        raise translated(e) from None
    dims = ",".join(map(str, shape))
    need = math.prod(shape) * dtype.itemsize
    if not need:  # without elements, no body would bound the number of rows
        raise InvalidInput(f"Shape [{dims}] has no elements.", field="body")
    if need != len(data):
        raise InvalidInput(
            f"Shape [{dims}] of {dtype.name} needs {need} bytes; the body has {len(data)}.", field="body"
        )
    array = np.frombuffer(data, dtype).reshape(shape, order=order)
    if dtype.kind == "b":
        array = array.view(np.uint8) != 0  # bytes but 0 and 1 are no booleans to a runtime
    tensors = {spec.name: np.asarray(array, spec.dtype, order="C")}
    return TensorInput(tensors, rows_of(tensors, info))


def wants_tensors(headers: Headers) -> bool:
    """Whether the client asks for a raw tensor rather than JSON."""
    accept = headers.get(b"accept")
    return accept is not None and accept != b"*/*" and media_type(accept.decode("latin-1")) in (OCTETS, NPY)


def answer_body(answer: Answer, request: Request, dispatcher: Dispatcher, headers: Headers) -> tuple[RawHeaders, Body]:
    """The content headers and body of a successful prediction."""
    if isinstance(answer, TensorAnswer) and request.wants_tensors:
        return _binary(answer.tensors, media_type(headers.text(b"accept")), headers.text(b"x-tensor-output"))
    head = dispatcher.answer_head
    json_type: RawHeaders = [(b"content-type", b"application/json")]
    assert not isinstance(answer, ValuesAnswer), "only pipelines ask for values"
    form: Form = "input" if isinstance(request.input, BytesInput | ValuesInput) else request.input.form
    if isinstance(answer, JsonAnswer):
        if dispatcher.loaded is not None and dispatcher.loaded.accepts_values:
            return json_type, (head[:-1] + b"}" if answer.data == b"{}" else head + answer.data[1:])
        data = answer.data
    else:
        data = _json_answer(answer, form, dispatcher)
    return json_type, b"%s%s%s}" % (head, _ANSWER_KEY[form], data)


def _json_answer(answer: TensorAnswer, form: Form, dispatcher: Dispatcher) -> bytes:
    specs = dispatcher.loaded.info.outputs if dispatcher.loaded is not None else ()
    try:
        return encode_json(codec.encode(form, answer.tensors, answer.single, specs))
    except BackendError as e:
        raise translated(e) from None


def _binary(tensors: Tensors, accept: str, output: str | None) -> tuple[RawHeaders, Body]:
    if output is None and len(tensors) > 1:
        names = ", ".join(tensors)
        raise InvalidRequest(
            f"This model has the outputs {names}; name one in the header x-tensor-output.", field="x-tensor-output"
        )
    name = output or next(iter(tensors))
    if name not in tensors:
        raise InvalidRequest(
            f"There is no tensor output {name!r}; there are {', '.join(tensors)}. Strings are sent as JSON alone.",
            field="x-tensor-output",
        )
    array = tensors[name]
    headers: RawHeaders = [
        (b"content-type", accept.encode()),
        (b"x-tensor-name", name.encode()),
        (b"x-tensor-dtype", array.dtype.name.encode()),
        (b"x-tensor-shape", ",".join(map(str, array.shape)).encode()),
    ]
    if accept == NPY:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        return headers, file.getvalue()
    return headers, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
