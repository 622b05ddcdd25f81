"""Every HTTP body of the native API, as plain structs. The server validates and encodes with them, the command line
reads them, and ``/openapi.json`` is generated from them. Imports no runtime and no NumPy.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

UNSET = msgspec.UNSET
UnsetType = msgspec.UnsetType

ModelState = Literal["unloaded", "loading", "ready", "unloading", "failed"]
"""*unloaded*: registered, loads at its first request. *failed*: it did not load; ``error`` says why."""


class RegisterRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``POST /v1/models``: registers a new version of a model, after it loaded and proved itself."""

    name: str
    model_path: str
    """A file, a folder, ``file.py:Class`` or ``package.module:Class``, on the server's machine."""
    backend: str | None = None
    """Found by looking when not given."""
    task: str | None = None
    """Found by probing when not given."""
    config: dict[str, Any] = {}
    """Model options, such as ``{"batching": {"max_batch_size": 64}}``."""
    trust: bool = False
    """Allows formats that run code when loaded (pickle, plugins)."""


class AliasRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``PUT /v1/aliases/{alias}``: lets a name stand for a model, or for one version of it."""

    model: str
    version: int | None = None
    """The version it is pinned to; without one, the newest serves."""


PullStatus = Literal["resolving", "downloading", "verifying", "success"]


class PullRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``POST /v1/pull``: downloads a model into the server's home folder."""

    source: str
    """``hf:ORG/REPO``, ``hf:ORG/REPO:FILE`` or ``hf:ORG/REPO:FILE@REVISION``."""


class Progress(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the answer to ``POST /v1/pull``. The last has the status ``success`` and a `path`."""

    status: PullStatus
    file: str = ""
    """The file's name in its repository."""
    digest: str = ""
    """What the hub says that the file hashes to, such as ``sha256:…``."""
    total: int = 0
    """Bytes of the file."""
    completed: int = 0
    """Of these, how many are here."""
    model_total: int = 0
    """Bytes of all files of the model."""
    model_completed: int = 0
    """Of these, how many are here."""
    note: str = ""
    """Once, if the repository has several models: which one is pulled, and why."""
    path: str | None = None
    """Where the model is on the server's machine, a file or a folder; it can be registered there."""


class TensorView(msgspec.Struct, kw_only=True):
    """One input or output: NumPy's dtype name or ``string``; free dimensions are names."""

    name: str
    dtype: str
    shape: list[int | str]
    batch_axis: int | None = None


class BatchingView(msgspec.Struct, kw_only=True):
    """How requests to a model are batched, and why not if they are not."""

    enabled: bool
    reason: str | None = None
    """Why the model is served unbatched."""
    max_batch_size: int
    max_batch_wait_ms: float
    dynamic_padding: bool
    padding_reason: str | None = None
    """Why rows of different lengths are not padded together."""


class GenerationView(msgspec.Struct, kw_only=True):
    """What is known of a model that generates text."""

    context_length: int
    """Tokens that prompt and answer of one sequence may have together."""
    sequences: int
    """Answers that are generated at once; more wait."""
    chat_template: bool
    """Whether it takes conversations; else it only completes a text."""
    images: bool
    """Whether prompts may have images."""
    infill: bool
    """Whether it fills the gap between a prompt and a suffix."""
    adapters: list[str]
    """Names of the LoRA adapters that a request may choose."""
    parameters: int
    """How many weights it has; 0 if that is not known."""
    quantization: str
    """Such as ``Q4_1``."""
    architecture: str
    """Such as ``llama``."""


class TranscriptionView(msgspec.Struct, kw_only=True):
    """What is known of a model that writes down speech."""

    sequences: int
    """Recordings that are transcribed at once; more wait."""
    languages: list[str]
    """Their codes, such as ``en``. Of several, the one that is spoken is recognised."""
    translates: bool
    """Whether it can write in English what is said in another language."""


class FindingView(msgspec.Struct, kw_only=True):
    """One thing that was found out when a model was registered."""

    subject: str
    """What it is about, such as ``labels``."""
    value: str
    sure: Literal["given", "certain", "likely", "guess"]
    """``given`` by the user; ``certain``: read from the model's files, or tried; ``likely``: told by shapes or names;
    ``guess``: the usual choice, about which the model says nothing."""
    source: str
    """Where it is from."""
    option: str = ""
    """What on the command line sets it; empty for what cannot be otherwise."""


class ModelView(msgspec.Struct, kw_only=True):
    """One registered version; a superset of a model in OpenAI's list."""

    id: str
    """What OpenAI calls it: the name, or ``NAME@3`` for a version that does not serve."""
    object: Literal["model"] = "model"
    created: int
    """Seconds since the epoch."""
    owned_by: str = "unimodel"
    name: str
    version: int
    versions: list[int]
    """All registered versions of the name."""
    aliases: list[str]
    backend: str
    task: str
    state: ModelState
    error: str | None = None
    reload_error: str | None = None
    """With ``engine.reload``: why its changed files could not be loaded in its place."""
    path: str
    sha256: str
    size_bytes: int
    config: dict[str, Any]
    trusted: bool
    runtime: str
    device: str
    inputs: list[TensorView]
    outputs: list[TensorView]
    labels: int
    """How many labels it has; the first ones are in `metadata` of the file, if any."""
    streams: bool
    generation: GenerationView | None = None
    """Of a model that generates text."""
    transcription: TranscriptionView | None = None
    """Of a model that writes down speech."""
    batching: BatchingView
    findings: list[FindingView] = []
    """What was found out and guessed when it was registered, and how to override it."""
    notes: list[str]
    """What else is to be known of it."""
    example: Any = None
    """A request body that this model accepts."""


class ModelList(msgspec.Struct, kw_only=True):
    """``GET /v1/models``: the serving version of every name."""

    object: Literal["list"] = "list"
    data: list[ModelView]


class InstanceView(msgspec.Struct, kw_only=True):
    """One loaded copy of a model on one worker."""

    worker: str
    device: str
    pid: int | None
    state: ModelState
    memory_bytes: int
    load_seconds: float


class StatusView(msgspec.Struct, kw_only=True):
    """``GET /v1/models/{name}/status``."""

    name: str
    version: int
    state: ModelState
    error: str | None = None
    reload_error: str | None = None
    """With ``engine.reload``: why its changed files could not be loaded in its place."""
    instances: list[InstanceView]
    batching: BatchingView
    queue_requests: int
    queue_bytes: int
    in_flight: int
    """Accepted requests that have not ended."""
    requests: int
    """Ended since it was loaded, errors included."""
    errors: int
    mean_batch_rows: float
    compute_ms_per_batch: float
    """Moving average."""
    last_used: float | None
    """Seconds since the epoch."""


class WorkerView(msgspec.Struct, kw_only=True):
    """One worker process."""

    name: str
    device: str
    pid: int | None
    state: Literal["starting", "ready", "restarting", "stopped"]
    restarts: int
    rss_bytes: int
    models: list[str]


class ServerView(msgspec.Struct, kw_only=True):
    """``GET /v1/status``: the server as a whole."""

    version: str
    pid: int
    uptime_seconds: float
    state: Literal["starting", "ready", "draining"]
    workers: list[WorkerView]
    models: list[StatusView]
    """The loaded ones."""
    registered: int
    in_flight: int
    rss_bytes: int


class SettingView(msgspec.Struct, kw_only=True):
    """One setting in force, and where its value came from."""

    key: str
    value: Any
    source: str
    env: str
    help: str


class ConfigView(msgspec.Struct, kw_only=True):
    """``GET /v1/config``."""

    settings: list[SettingView]


class BackendView(msgspec.Struct, kw_only=True):
    """One backend: whether its runtime is there, and how to get it."""

    name: str
    summary: str
    """The formats that it serves."""
    available: bool
    runtime: str | None = None
    """The module of its runtime; none for a backend that needs none."""
    version: str | None = None
    """Of the runtime."""
    devices: list[str] = []
    """Kinds of device that it can compute on here: the machine has them, the installed runtime was built for them."""
    unknown_devices: list[str] = []
    """Those of which only loading a model tells."""
    supported_devices: list[str] = []
    """Those that it can compute on in principle, with another machine or another build of its runtime."""
    gpu_problem: str | None = None
    """Why it cannot use this machine's GPU, which it supports."""
    gpu_install: str | None = None
    """The command that installs a build for the GPU."""
    extra: str | None = None
    """The extra of ``unimodel`` that installs its runtime."""
    package: str = ""
    """The installed package that it comes from, and its version."""
    install: str | None = None
    """The command that installs the missing runtime."""
    problem: str | None = None
    """Why it cannot be used, if it is not for want of its runtime."""


class BackendList(msgspec.Struct, kw_only=True):
    """``GET /v1/backends``."""

    backends: list[BackendView]


class Deleted(msgspec.Struct, kw_only=True):
    """What was removed."""

    name: str
    versions: list[int]


class Alias(msgspec.Struct, kw_only=True):
    """An alias and what it stands for."""

    alias: str
    model: str
    version: int | None = None


class AliasList(msgspec.Struct, kw_only=True):
    """``GET /v1/aliases``."""

    aliases: list[Alias]


class ErrorDetail(msgspec.Struct, kw_only=True):
    """What went wrong. `code` is stable; `message` is for people."""

    code: str
    message: str
    type: str
    """OpenAI's coarse kind: ``invalid_request_error``, ``not_found_error``, ``overloaded_error``, ``server_error``."""
    param: str | None = None
    """The part of the request at fault."""
    request_id: str | None = None
    details: dict[str, Any] = {}


class ErrorBody(msgspec.Struct, kw_only=True):
    """The body of every response whose status is 400 or more."""

    error: ErrorDetail


class Health(msgspec.Struct, kw_only=True):
    """``GET /healthz`` and ``GET /readyz``."""

    status: Literal["ok", "starting", "draining"]
    version: str


class PredictRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """``POST /v1/models/{name}:predict``, with exactly one of `input`, `instances` and `inputs`.

    A plugin gets the whole body as it is, so for its model any further keys may be there.
    """

    input: Any = UNSET
    """A row or a batch of rows: nested lists of numbers, text, a base64 image (or ``data:`` URL), a record
    ``{"column": value}``, or ``{"input name": …}`` for a model with several inputs."""
    instances: list[Any] | UnsetType = UNSET
    """TensorFlow Serving's row form."""
    inputs: Any = UNSET
    """TensorFlow Serving's column form."""
    parameters: dict[str, Any] | UnsetType = UNSET
    """Options of this request, such as ``{"top_k": 3}``."""
    stream: bool = False
    """Asks for server-sent events; only for models that stream."""


class PredictResponse(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The answer to a prediction, under the key that goes with the request's: `output`, `predictions` or `outputs`.

    A classifier answers, for each row, a list of ``{"label", "index", "score"}``, best first. The keys of a plugin's
    answer stand beside `model` and `version`.
    """

    model: str
    version: int
    output: Any = UNSET
    predictions: Any = UNSET
    outputs: Any = UNSET


class TranscriptWord(msgspec.Struct, kw_only=True):
    """A word and when it was said, in seconds from the beginning of the recording."""

    word: str
    """With the space before it."""
    start: float
    end: float
    probability: float


class TranscriptSegment(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A piece of the text, about a sentence, and when it was said, in seconds from the beginning of the recording."""

    id: int
    """Counted from 0."""
    start: float
    end: float
    text: str
    """With the space before it."""
    avg_logprob: float
    """Of a token, on the average: how likely the text is."""
    no_speech_prob: float
    """How likely it is that nothing was said."""
    compression_ratio: float
    """How far the text of its 30 seconds can be compressed: above 2.4 it repeats itself."""
    temperature: float
    """That it was written with."""
    words: list[TranscriptWord] | UnsetType = UNSET
    """If the parameters ask for ``words``."""


class Transcript(msgspec.Struct, kw_only=True):
    """The answer to a prediction with a model that writes down speech, beside `model` and `version`.

    Of a stream, each event has the `text` and the `segments` that follow; the first has the rest.
    """

    text: str
    language: str | UnsetType = UNSET
    language_probability: float | UnsetType = UNSET
    """1 when the request says which language it is."""
    duration: float | UnsetType = UNSET
    """Of the recording, in seconds."""
    segments: list[TranscriptSegment]
