"""SavedModel folders: what is in them, and running one of their signatures.

They are run as TensorFlow Serving runs them: the graph in a session, fed and fetched by the names of tensors. That is
the same for what TensorFlow 1, TensorFlow 2 and Keras write, minds no name of an argument, and computes nothing of the
file but its initialization and the signature, so that these can be examined before (see `backends.tensorflow.graph`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.base import InvalidOption, ModelFileError, UntrustedFile
from backends.tensorflow import feeds, pixels
from backends.tensorflow.feeds import Feed
from backends.tensorflow.flow import Flow
from backends.tensorflow.graph import Graph, Run
from backends.tensorflow.program import Array, Slot, dtype_of, is_base64

FILE, TEXT, CHUNKED = "saved_model.pb", "saved_model.pbtxt", "saved_model.cpb"
_INIT, _TRAIN = "__saved_model_init_op", "__saved_model_train_op"
_ASSETS = "saved_model_assets"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
DEFAULT = "serving_default"
_LIKELY = ("serving", "serve", "predict", "default", "classification", "regression")
"""Names of signatures, the likeliest to be wanted first."""
_LARGEST = 1 << 31
"""Bytes of a graph: protobuf's own limit."""


class SavedModel:
    """What the folder says: the graph that was meant for serving, and its signatures."""

    def __init__(self, tf: Any, folder: Path, tags: Sequence[str] | None) -> None:
        self._tf = tf
        self.folder = folder
        self._meta = _meta_graph(folder, _parse(folder), tags)
        self.written_by = f"TensorFlow {self._meta.meta_info_def.tensorflow_version or 'of an unknown version'}"
        self._signatures = {n: s for n, s in self._meta.signature_def.items() if n not in (_INIT, _TRAIN)}

    @property
    def signatures(self) -> list[str]:
        """Their names."""
        return sorted(self._signatures)

    def choose(self, wanted: str | None) -> str:
        """The signature to serve: the `wanted` one, the default one, or the likeliest. Raises `InvalidOption`."""
        names = self.signatures
        if not names:
            raise ModelFileError(
                f"{self.folder.name} has no signature, so nothing in it can be called. Save it again with "
                "tf.saved_model.save(model, folder, signatures=…)."
            )
        if wanted is not None and wanted not in names:
            raise InvalidOption(
                f"There is no signature {wanted!r} in this model; it has: {', '.join(names)}.", field="config.signature"
            )
        return wanted or next((name for name in (DEFAULT, *_LIKELY) if name in names), names[0])

    def method(self, signature: str) -> str:
        """What kind of signature it is, such as ``tensorflow/serving/predict``."""
        return str(self._signatures[signature].method_name)

    def program(self, signature: str, base64: Sequence[str], *, trusted: bool) -> SavedModelProgram:
        """The signature, ready to run.

        Raises `ModelFileError`, and `UntrustedFile` when it can do more than compute and is not `trusted`.
        """
        inputs, outputs = self._signatures[signature].inputs, self._signatures[signature].outputs
        for kind, tensors in (("input", inputs), ("output", outputs)):
            if not tensors:
                raise ModelFileError(f"The signature {signature!r} has no {kind}, so it cannot be served.")
        given, fetches = self._slots("Input", inputs, base64), self._slots("Output", outputs, base64)
        runs = (*self._initialization(), Run(tuple(fetches.values()), tuple(given.values())))
        if not trusted:
            self._check(runs)
        for function in self._meta.graph_def.library.function:
            _place_anywhere(function.node_def)
        _place_anywhere(self._meta.graph_def.node)
        flow = Flow(self._meta.graph_def, fetches.values())
        fed = feeds.find(flow, self._meta.object_graph_def.concrete_functions, given, base64)
        program = SavedModelProgram(self._tf, self._meta, self._feeding(), fed, fetches)
        if [slot.dtype[:5] for slot in given] == ["float"]:
            program.brightest = pixels.brightest(flow, *given.values())
        return program

    def _slots(self, kind: str, tensors: Mapping[str, Any], base64: Sequence[str]) -> dict[Slot, str]:
        """The inputs or outputs of a signature, and the names of their tensors in the graph."""
        slots = {}
        for name in sorted(tensors):
            info = tensors[name]
            if info.WhichOneof("encoding") != "name":
                raise ModelFileError(feeds.not_dense(kind, name))
            dtype, own = dtype_of(kind, name, self._tf.dtypes.as_dtype(info.dtype))
            dims = tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim)
            shape = None if info.tensor_shape.unknown_rank else dims
            slots[Slot(name, dtype, shape, own, is_base64(name, dtype, base64))] = info.name
        return slots

    def _feeding(self) -> list[tuple[str, dict[str, str]]]:
        """What is run to initialize the model, in order, and the paths that it is fed."""
        steps = []
        saver = self._meta.saver_def
        if saver.restore_op_name:
            variables = self.folder / "variables" / "variables"
            if not variables.with_name("variables.index").is_file():
                raise ModelFileError(f"{self.folder / 'variables'} lacks variables.index. Copy the whole folder.")
            steps.append((saver.restore_op_name, {saver.filename_tensor_name: str(variables)}))
        initialize = self._initialize()
        if initialize:
            steps.append((initialize, {asset.tensor_info.name: self._path(asset) for asset in self._assets()}))
        return steps

    def _initialization(self) -> list[Run]:
        return [Run((operation,), paths=tuple(paths)) for operation, paths in self._feeding()]

    def _initialize(self) -> str:
        """The name of the operation that fills tables; empty when there is none."""
        if _INIT in self._meta.signature_def:
            return str(self._meta.signature_def[_INIT].outputs[_INIT].name)
        collections = [self._meta.collection_def[key] for key in _INIT_COLLECTIONS if key in self._meta.collection_def]
        return next((name for each in collections for name in each.node_list.value), "")

    def _assets(self) -> list[Any]:
        """TensorFlow's messages `AssetFileDef`: files that belong to the model, and the tensors for their paths."""
        from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef

        assets = list(self._meta.asset_file_def)
        if _ASSETS in self._meta.collection_def:  # as TensorFlow 1 has them
            for packed in self._meta.collection_def[_ASSETS].any_list.value:
                asset = AssetFileDef()
                packed.Unpack(asset)
                assets.append(asset)
        return assets

    def _path(self, asset: Any) -> str:
        """Of a file in the model's folder of assets."""
        folder = (self.folder / "assets").resolve()
        file = (folder / asset.filename).resolve()
        if "\0" in asset.filename or not file.is_relative_to(folder):
            raise ModelFileError(f"{self.folder.name} names a file outside its folder: {asset.filename!r}.")
        if not file.is_file():
            raise ModelFileError(f"{self.folder / 'assets'} lacks {asset.filename}. Copy the whole folder.")
        return str(file)

    def _check(self, runs: Sequence[Run]) -> None:
        reached = Graph(self._meta.graph_def).outside(runs)
        if reached:
            raise UntrustedFile(
                f"{self.folder.name} does more than compute: its graph reaches files, other code or other machines by "
                f"{', '.join(reached[:10])}. If you trust its author, register it with --trust."
            )


class SavedModelProgram:
    """One signature, in a session of its own. See `backends.tensorflow.program.Program`."""

    brightest: int | None = None
    """The value of a white pixel, of a graph that itself brings pixels into the range that its layers take."""

    def __init__(
        self,
        tf: Any,
        meta: Any,
        steps: Sequence[tuple[str, dict[str, str]]],
        feeds: Sequence[Feed],
        outputs: Mapping[Slot, str],
    ) -> None:
        self.feeds = tuple(feeds)
        self.inputs = tuple(slot for feed in feeds for slot in feed.slots)
        self.outputs = tuple(outputs)
        v1 = tf.compat.v1
        with tf.Graph().as_default() as graph:
            v1.import_graph_def(meta.graph_def, name="", producer_op_list=meta.meta_info_def.stripped_op_list)
            fetches = [tf.identity(graph.get_tensor_by_name(name)) for name in outputs.values()]
        self._session = v1.Session(graph=graph)
        for operation, paths in steps:
            self._session.run(graph.get_operation_by_name(operation.partition(":")[0]), paths)
        self._call = self._session.make_callable(fetches, [tensor for feed in feeds for tensor in feed.tensors])

    def run(self, tensors: list[Array]) -> list[Any]:
        given = iter(tensors)
        packed = [each for feed in self.feeds for each in feed.pack([next(given) for _ in feed.slots])]
        results: list[Any] = self._call(*packed)
        return results

    def close(self) -> None:
        """Frees the session and its variables."""
        self._session.close()


# --- the file -------------------------------------------------------------------------------------------------------


def _parse(folder: Path) -> Any:
    """TensorFlow's message `SavedModel`."""
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    file = folder / FILE if (folder / FILE).exists() else folder / TEXT
    try:
        if file.stat().st_size >= _LARGEST:
            raise ModelFileError(f"{file} is larger than 2 GiB, which a graph cannot be.")
        if file.name == FILE:
            message.ParseFromString(file.read_bytes())
        else:
            text_format.Parse(file.read_bytes(), message)
    except OSError as e:
        raise ModelFileError(f"{file} cannot be read: {e.strerror}.") from None
    except (DecodeError, text_format.ParseError, UnicodeDecodeError, RecursionError):
        raise ModelFileError(f"{file} is truncated or corrupt: it is no SavedModel. Copy it again.") from None
    if not message.meta_graphs:
        raise ModelFileError(f"{file} is truncated or corrupt: it has no graph. Copy it again.")
    return message


def _meta_graph(folder: Path, message: Any, tags: Sequence[str] | None) -> Any:
    """The graph with these tags: the only one, or the one for serving, when none are given."""
    graphs = {tuple(sorted(meta.meta_info_def.tags)): meta for meta in message.meta_graphs}
    wanted = tuple(sorted(tags)) if tags is not None else next(iter(graphs)) if len(graphs) == 1 else ("serve",)
    if wanted not in graphs:
        known = " or ".join(str(list(each)) for each in graphs)
        raise InvalidOption(f"{folder.name} has no graph tagged {list(wanted)}; it has {known}.", field="config.tags")
    return graphs[wanted]


def _place_anywhere(nodes: Any) -> None:
    """Forgets on which devices of its author's machine a graph was to run."""
    for node in nodes:
        node.ClearField("device")
