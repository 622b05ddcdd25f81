"""What a graph can do besides computing: a SavedModel is a program, and some of its operations reach the world outside.

Only what is run counts: every SavedModel has operations that write files, to save it again, and nothing that is fetched
leads to them. Files that belong to the model may be read: its variables, and vocabularies by the tables they are for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backends.tensorflow.flow import Node, node_of

_OUTSIDE = re.compile(
    r"""
    .*PyFunc.* | .*Rpc.* | RemoteFusedGraphExecute | .*DatasetFromGraph | .*TPU.* | .*TensorRT.* | .*TRT.*
    | .*DataService.* | RegisterDataset.* | DistributedSave | FileSystemSetConfiguration | ImmutableConst
    | ReadFile | WriteFile | .*MatchingFiles.* | .*Reader.* | RecordInput | Skipgram | .*Snapshot.*
    | .*DatasetToTFRecord | .*(?:Sql|TextLine|TFRecord|FixedLengthRecord|LMDB|CSV|Cache|Load|Save)Dataset.*
    | (?:DTensor)?Restore(?:V2|Slice)? | Save(?:V2|Slices)? | MergeV2Checkpoints | LoadAndRemapMatrix
    | GenerateVocabRemapping | FixedUnigramCandidateSampler | InitializeTableFromTextFile(?:V2)? | (?:En|De)codeProto.*
    | .*SummaryWriter | CreateSummary.* | Write.*Summary | Debug(?:Identity|Numeric|Nan).* | DumpTensor
    | CalibrationStatisticsSaver | _VarHandlesOp
    """,
    re.VERBOSE,
)
_READS_OWN = {
    "RestoreV2": 0,
    "Restore": 0,
    "RestoreSlice": 0,
    "InitializeTableFromTextFile": 1,
    "InitializeTableFromTextFileV2": 1,
}
"""Operations that may read a file of the model, and which of their inputs is its path."""
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
"""Operations whose inputs are the arguments of the function that they call."""
_LONGEST_CHAIN = 100


@dataclass(frozen=True, slots=True)
class Run:
    """One thing that a model is run for. Names are those of tensors or operations."""

    fetches: tuple[str, ...]
    feeds: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """Feeds that are paths of the model's own files."""


class Graph:
    """A graph and its functions, of TensorFlow's message `GraphDef`."""

    def __init__(self, definition: Any) -> None:
        self._nodes = {node.name: node for node in definition.node}
        self._functions = {function.signature.name: function for function in definition.library.function}
        inner = (node for function in definition.library.function for node in function.node_def)
        self._handles = [node for node in (*definition.node, *inner) if node.op == "VarHandleOp"]

    def outside(self, runs: Iterable[Run]) -> list[str]:
        """The operations that `runs` come by and that reach outside the model."""
        found: set[str] = set()
        for run in runs:
            own = {node_of(name) for name in run.paths}
            own |= {
                name for name, node in self._nodes.items() if node.op == "VarHandleOp" and self._holds_own(name, own)
            }
            found |= set(self._reached(self._computed(run), own, set()))
        return sorted(found)

    def _holds_own(self, variable: str, own: set[str]) -> bool:
        """Whether a variable is only ever given paths of the model's own files: TensorFlow 2 keeps some in one."""
        identity = _identity(self._nodes[variable])
        if sum(_identity(node) == identity for node in self._handles) > 1:
            return False
        users = [node for node in self._nodes.values() if variable in map(node_of, node.input)]
        assigned = [node for node in users if node.op == "AssignVariableOp"]
        others = {node.op for node in users} - {"AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp"}
        return bool(assigned) and not others and all(node_of(node.input[1]) in own for node in assigned)

    def _computed(self, run: Run) -> dict[str, Node]:
        """The nodes on the way to what is fetched, but not beyond what is fed."""
        fed = {node_of(name) for name in (*run.feeds, *run.paths)}
        waiting = [node_of(name) for name in run.fetches]
        seen: dict[str, Node] = {}
        while waiting:
            name = waiting.pop()
            if name not in seen and name not in fed and name in self._nodes:
                seen[name] = self._nodes[name]
                waiting += map(node_of, self._nodes[name].input)
        return seen

    def _reached(
        self, nodes: Mapping[str, Node], own: set[str], done: set[tuple[str, tuple[bool, ...]]]
    ) -> Iterator[str]:
        """What `nodes` and the functions that they call reach. `own` are the names of paths of the model's own files,
        `done` the functions that were looked at, each with which of its arguments are such paths."""
        for node in nodes.values():
            inputs = [_is_own(name, nodes, own) for name in node.input if not name.startswith("^")]
            path = _READS_OWN.get(node.op, len(inputs))
            if _OUTSIDE.fullmatch(node.op) and not (path < len(inputs) and inputs[path]):
                yield node.op
            if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file:"):
                yield node.op
            for name in (node.op, *_functions_in(node.attr)):
                function = self._functions.get(name)
                given = tuple(inputs) if node.op in _CALLS else ()
                if function is None or (name, given) in done:
                    continue
                done.add((name, given))
                arguments = [argument.name for argument in function.signature.input_arg]
                paths = {argument for argument, is_own in zip(arguments, given, strict=False) if is_own}
                yield from self._reached({each.name: each for each in function.node_def}, paths, done)


def _is_own(name: str, nodes: Mapping[str, Node], own: set[str]) -> bool:
    """Whether a tensor is the path of one of the model's own files, as it is or passed on."""
    for _ in range(_LONGEST_CHAIN):
        name = node_of(name)
        if name in own:
            return True
        node = nodes.get(name)
        if node is None or node.op not in ("Identity", "ReadVariableOp") or not node.input:
            return False
        name = node.input[0]
    return False


def _identity(handle: Node) -> tuple[bytes, bytes]:
    """What two handles of the same variable have in common."""
    return handle.attr["container"].s, handle.attr["shared_name"].s or handle.name.encode()


def _functions_in(attributes: Any) -> Iterator[str]:
    """The names of the functions in a node's attributes, and in theirs."""
    for value in attributes.values():
        for function in (*([value.func] if value.HasField("func") else []), *value.list.func):
            yield function.name
            yield from _functions_in(function.attr)
