"""What every command shares: the common options, declared once, and the `Session` that they make.

A command is a function whose first argument is the session::

    @command(app, "show", examples=["unimodel show resnet"])
    def show(session: Session, name: ModelName) -> None: ...
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import ServerUnreachable
from unimodel_cli.errors import UsageError
from unimodel_cli.home import Home, default_home
from unimodel_cli.output import Output

if TYPE_CHECKING:
    from unimodel_cli.client import Client

DEFAULT_URL = "http://127.0.0.1:8000"

ModelName = Annotated[
    str, typer.Argument(metavar="NAME", help="A model, NAME@VERSION, or an alias.", show_default=False)
]
"""The argument of the commands about one model. Completions offer the names of the running server for it."""


class PipeClosed(Exception):
    """The reader of stdout is gone. A type of its own, since Typer would end a `BrokenPipeError` as a failure."""


@dataclass(frozen=True)
class Common:
    """The common options as given, before or after the command's name."""

    json: bool = False
    host: str | None = None
    api_key: str | None = None
    home: Path | None = None

    def over(self, outer: Common) -> Common:
        """These options, and where they were not given, those of `outer`."""
        return Common(
            self.json or outer.json,
            self.host or outer.host,
            self.api_key or outer.api_key,
            self.home or outer.home,
        )


@dataclass(frozen=True)
class Session:
    """One run of one command: where the server is, and how to print."""

    common: Common

    @property
    def json(self) -> bool:
        """Whether the output is for programs."""
        return self.common.json

    @cached_property
    def out(self) -> Output:
        """The printer."""
        return Output(self.common.json)

    @cached_property
    def home(self) -> Home:
        """The home folder of the server on this machine."""
        return Home(self.common.home.expanduser().absolute() if self.common.home else default_home())

    @cached_property
    def url(self) -> str:
        """``--host``, else ``UNIMODEL_HOST``, else the server that runs with this home, else the default address.

        Raises `ServerUnreachable` when the server of this home crashed.
        """
        from unimodel_cli.client import normalize_url

        if self.names_server:
            return normalize_url(self.common.host or os.environ["UNIMODEL_HOST"])
        record = self.home.record()
        if record is None:
            return DEFAULT_URL
        if not self.home.locked():
            raise ServerUnreachable(
                f"The server (pid {record.pid}) ended without being stopped: it was killed or crashed. "
                "Look at 'unimodel logs', and start it again with: unimodel start"
            )
        return record.url

    @property
    def names_server(self) -> bool:
        """Whether the user says which server is meant."""
        return bool(self.common.host or os.environ.get("UNIMODEL_HOST"))

    @property
    def api_key(self) -> str | None:
        """``--api-key``, else ``UNIMODEL_API_KEY``."""
        return self.common.api_key or os.environ.get("UNIMODEL_API_KEY") or None

    @cached_property
    def client(self) -> Client:
        """The HTTP client for `url`."""
        from unimodel_cli.client import Client

        return Client(self.url, self.api_key)

    def close(self) -> None:
        """Ends the connections, if there are any."""
        if "client" in self.__dict__:
            self.client.close()


def _remote(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and errors as JSON on stderr.")] = False,
    host: Annotated[
        str | None, typer.Option(metavar="URL", help="Server to talk to [env: UNIMODEL_HOST; default: the local one].")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Sent as bearer token [env: UNIMODEL_API_KEY].")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Server's folder [env: UNIMODEL_HOME; default: ~/.unimodel].")
    ] = None,
) -> None:
    """Never called: its parameters are the common options."""


_SHARED = list(inspect.signature(_remote, eval_str=True).parameters.values())
_LOCAL = [p for p in _SHARED if p.name in ("json", "home")]
"""For commands about the server's process on this machine, where ``--host`` would mean another thing."""


def command(
    app: typer.Typer,
    name: str,
    *,
    examples: Sequence[str],
    local: bool = False,
    flags: Sequence[inspect.Parameter] = (),
    hidden: bool = False,
    context_settings: dict[str, Any] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Puts a function on the command line, with the common options and with `flags`, which it takes as keywords.

    Its docstring is the help. `local` commands do not talk to a server, and take no ``--host`` and ``--api-key``.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        own = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        shared = _LOCAL if local else _SHARED

        def run(ctx: typer.Context, **values: Any) -> None:
            outer = ctx.find_root().obj or Common()
            if local and (outer.host or outer.api_key):
                raise UsageError(f"'unimodel {name}' is about this machine; it takes no --host URL and no --api-key.")
            common = Common(**{p.name: values.pop(p.name) for p in shared})
            session = Session(common.over(outer))
            try:
                function(session, **values)
            except BrokenPipeError:
                raise PipeClosed from None
            finally:
                session.close()

        _set_parameters(run, [*own, *flags, *shared])
        app.command(
            name,
            help=inspect.getdoc(function),
            epilog=epilog(examples),
            hidden=hidden,
            context_settings=context_settings,
        )(run)
        return function

    return decorate


def root(app: typer.Typer, version: Callable[[bool], None]) -> None:
    """Gives `app` the common options, to be used before the command's name, and ``--version``."""

    def callback(ctx: typer.Context, **values: Any) -> None:
        values.pop("version")
        ctx.obj = Common(**values)

    flag = inspect.Parameter(
        "version",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[
            bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and exit.")
        ],
    )
    _set_parameters(callback, [flag, *_SHARED])
    app.callback()(callback)


def group(app: typer.Typer, name: str, help: str) -> typer.Typer:
    """A command with subcommands."""
    sub = new_app(help=help)
    app.add_typer(sub, name=name)
    return sub


def new_app(**settings: Any) -> typer.Typer:
    """An app whose help is plain text, so that it needs no Rich and is as fast in a pipe as on a terminal."""
    return typer.Typer(
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **settings,
    )


def epilog(examples: Sequence[str]) -> str:
    """The examples as the end of a help page."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)


def _set_parameters(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    """Makes `function`, which takes a context and keywords, look to Typer as if it declared `parameters`."""
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    function.__signature__ = inspect.Signature([context, *keywords])  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in [context, *keywords]}
