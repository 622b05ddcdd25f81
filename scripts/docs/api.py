"""What the documents say of routes, headers, errors and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from engine import errors, openapi
from engine.api.routes import OPERATIONS
from engine.telemetry.metrics import Metrics
from scripts.docs.markdown import code, prose, table

NATIVE = ("models", "prediction", "aliases", "server")
"""Tags of the operations that are no other server's."""


def routes_of(*tags: str) -> Callable[[], str]:
    """What makes the table of the routes with these tags: what they take and what they answer."""

    def rows() -> Iterator[list[str]]:
        for o in OPERATIONS:
            if o.tag in tags:
                query = "".join(f" [?{p.name}=]" for p in o.parameters if p.location == "query")
                takes, answers = _body(o.request or o.form, o.request_media), _body(o.response, o.response_media)
                yield [code(f"{o.method} {o.path}") + query, takes, answers, o.summary]

    return lambda: table(["route", "takes", "answers", "what it does"], rows())


def _body(body: type | None, media: Sequence[str]) -> str:
    """The name of a JSON body, or the media type of another."""
    return code(body.__name__ if body is not None else next(iter(media), ""))


def headers() -> str:
    """The headers that requests may have, each as the first operation that has it describes it."""
    found: dict[str, str] = {}
    for methods in openapi.document("", OPERATIONS)["paths"].values():
        for parameter in (p for operation in methods.values() for p in operation["parameters"]):
            if parameter["in"] == "header":
                found.setdefault(parameter["name"], parameter["description"])
    return table(["request header", "meaning"], ([code(name), meaning] for name, meaning in found.items()))


def error_codes() -> str:
    """Every error: its code, status and exit code. One never comes over HTTP: the client's own."""
    rows = []
    for name, cls in sorted(errors.BY_CODE.items(), key=lambda item: (item[1].status, item[0])):
        status = "–" if cls is errors.ServerUnreachable else str(cls.status)
        rows.append([code(name), status, str(int(cls.exit_code)), prose(cls.__doc__)])
    return table(["code", "status", "exit code", "meaning"], rows)


def metrics() -> str:
    """Every metric that the server has of its own."""
    found = Metrics("")
    found.model("name", 1)
    found.worker("cpu")
    rows = []
    for family in found.collect():
        labels = {label: None for sample in family.samples for label in sample.labels if label != "le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append([code(name), family.type, ", ".join(map(code, labels)), family.documentation])
    return table(["metric", "type", "labels", "meaning"], rows)
