"""The registered models: register, list, show, load, unload, unregister, ps."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engine.errors import UniModelError, UntrustedModel
from engine.schema import Deleted, ModelList, ModelView, RegisterRequest, ServerView, StatusView
from unimodel_cli.command import ModelName, Session, command
from unimodel_cli.output import ago, size


def add(app: typer.Typer) -> None:
    """Puts the commands on the command line."""
    command(
        app,
        "register",
        examples=[
            "unimodel register resnet ./resnet50.onnx",
            "unimodel register fraud ./fraud.joblib --set batching.max_batch_size=64 --trust",
            "unimodel register echo ./my_plugin.py:MyModel --trust",
            "unimodel register chat ./model.gguf --chat-template ./template.jinja",
        ],
    )(register)
    command(app, "list", examples=["unimodel list", "unimodel list --json | jq -r '.data[].name'"])(list_models)
    command(
        app,
        "show",
        examples=[
            "unimodel show resnet",
            "unimodel show resnet@1 --json",
            "unimodel show resnet --example > body.json",
        ],
    )(show)
    command(app, "load", examples=["unimodel load resnet"])(load)
    command(app, "unload", examples=["unimodel unload resnet"])(unload)
    command(app, "unregister", examples=["unimodel unregister resnet", "unimodel unregister resnet@1 --yes"])(
        unregister
    )
    command(app, "ps", examples=["unimodel ps", "unimodel ps --json | jq '.models[].name'"])(ps)


def register(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name; a known one gets a new version.")],
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A model file or folder, plugin.py:Class or package.module:Class.")
    ],
    backend: Annotated[
        str | None, typer.Option(metavar="BACKEND", help="Runtime to load it with; found by looking.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="TASK", help="What it is for; found by probing.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A model option, such as top_k=3; repeatable."),
    ] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(
            "--chat-template",
            metavar="FILE",
            help="Jinja file that replaces a language model's chat template.",
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Allow formats that run code when loaded (pickle, plugins).")
    ] = False,
) -> None:
    """Load a model, try it, and serve it from then on.

    Nothing is registered if that fails.
    """
    from unimodel_cli.model_options import nested, server_path, text_of_file

    config = nested(options or [])
    if chat_template is not None:
        config["chat_template"] = text_of_file(chat_template, "--chat-template")
    request = RegisterRequest(
        name=name,
        model_path=server_path(path, session.url),
        backend=backend,
        task=task,
        config=config,
        trust=trust,
    )
    view = _register(session, request)
    if session.json:
        session.out.json(view)
        return
    from unimodel_cli.model_card import registered

    session.out.render(*registered(view))


def list_models(session: Session) -> None:
    """List the registered models."""
    models = session.client.call(ModelList, "GET", "/v1/models")
    if session.json:
        session.out.json(models)
        return
    session.out.table(
        ["NAME", "VERSION", "TASK", "BACKEND", "STATE", "SIZE", "ALIASES"],
        [
            [m.name, m.version, m.task, m.backend, m.state, size(m.size_bytes), ", ".join(m.aliases)]
            for m in models.data
        ],
        empty="No model is registered. Register one with: unimodel register NAME PATH",
    )


def show(
    session: Session,
    name: ModelName,
    example: Annotated[bool, typer.Option("--example", help="Print only a request body that it accepts.")] = False,
) -> None:
    """Show a model: signature, batching, notes, and how to call it."""
    from unimodel_cli.client import model_path

    if example:
        session.out.json(_example(session, name))
        return
    view = session.client.call(ModelView, "GET", model_path(name))
    if session.json:
        session.out.json(view)
    else:
        from unimodel_cli.model_card import card

        session.out.render(*card(view, session.url))


def load(session: Session, name: ModelName) -> None:
    """Load a model now instead of at its first request."""
    _change_state(session, name, "load", f"Loading {name}")


def unload(session: Session, name: ModelName) -> None:
    """Free a model's memory; its next request loads it again."""
    _change_state(session, name, "unload", f"Unloading {name}")


def unregister(
    session: Session,
    name: ModelName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a model, or with NAME@VERSION one version of it.

    Its file stays.
    """
    import sys

    from unimodel_cli.client import model_path

    if not yes and not session.json and sys.stdin.isatty() and sys.stderr.isatty():
        what = (
            f"version {name.rpartition('@')[2]} of {name.rpartition('@')[0]}"
            if "@" in name
            else f"all versions of {name}"
        )
        typer.confirm(f"Unregister {what}?", abort=True, err=True)
    deleted = session.client.call(Deleted, "DELETE", model_path(name), timeout=None)
    if session.json:
        session.out.json(deleted)
    else:
        versions = ", ".join(str(v) for v in deleted.versions)
        word = "version" if len(deleted.versions) == 1 else "versions"
        session.out.line(f"Unregistered {deleted.name} ({word} {versions}).")


def ps(session: Session) -> None:
    """List the loaded models: where they are, what they hold."""
    view = session.client.call(ServerView, "GET", "/v1/status")
    if session.json:
        session.out.json({"models": view.models})
        return
    rows = [
        [
            f"{m.name}@{m.version}",
            i.state,
            i.worker,
            i.device,
            i.pid,
            size(i.memory_bytes),
            m.requests,
            ago(m.last_used),
        ]
        for m in view.models
        for i in m.instances
    ]
    session.out.table(
        ["MODEL", "STATE", "WORKER", "DEVICE", "PID", "MEMORY", "REQUESTS", "LAST USED"],
        rows,
        empty="No model is loaded. The first request to a registered model loads it.",
    )


def _register(session: Session, request: RegisterRequest) -> ModelView:
    """Registers, and asks on a terminal whether to trust a format that runs code."""
    try:
        return _post(session, request)
    except UntrustedModel as e:
        import sys

        if session.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            if "--trust" not in e.message:
                e.message += " If you trust its author, add --trust."
            raise
        session.out.note(e.message)
        typer.confirm("Do you trust the author of this file?", abort=True, err=True)
        request.trust = True
        return _post(session, request)


def _post(session: Session, request: RegisterRequest) -> ModelView:
    with session.out.waiting(f"Loading {request.name} and checking that it works"):
        return session.client.call(ModelView, "POST", "/v1/models", request, timeout=None)


def _example(session: Session, name: str) -> Any:
    from unimodel_cli.client import loaded_view

    view = loaded_view(session.client, name)
    if view.example is None:
        raise UniModelError(f"{view.name} gives no example; its author can declare one.")
    return view.example


def _change_state(session: Session, name: str, verb: str, doing: str) -> None:
    from unimodel_cli.client import model_path

    with session.out.waiting(doing):
        view = session.client.call(StatusView, "POST", f"{model_path(name)}:{verb}", timeout=None)
    if session.json:
        session.out.json(view)
        return
    where = ", ".join(f"{i.device} ({size(i.memory_bytes)}, {i.load_seconds:.2f} s)" for i in view.instances)
    session.out.line(f"{view.name}@{view.version} is {view.state}" + (f" on {where}." if where else "."))
