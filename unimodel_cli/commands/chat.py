"""`unimodel chat`: a conversation with a model, at a terminal or one turn in a pipe."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from unimodel_cli import generation_flags
from unimodel_cli.command import ModelName, Session, command
from unimodel_cli.errors import UsageError


def add(app: typer.Typer) -> None:
    """Puts the command on the command line."""
    command(
        app,
        "chat",
        examples=[
            "unimodel chat smol",
            "unimodel chat smol 'What is artificial intelligence?' --max-tokens 100",
            "git diff | unimodel chat smol --system 'Write a commit message.'",
            "unimodel chat smol 'A person.' --json-schema schema.json --temperature 0",
        ],
        flags=generation_flags.PARAMETERS,
    )(chat)


def chat(
    session: Session,
    name: ModelName,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="Ask this alone; '-' is stdin.", show_default=False)
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Send an image with the first message; repeatable.")
    ] = None,
    params: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A further parameter, such as top_k=40; repeatable.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="Deadline of each answer; none by default.")
    ] = None,
    hide_reasoning: Annotated[
        bool, typer.Option("--hide-reasoning", help="Do not show what the model thinks first.")
    ] = False,
    **generation: Any,
) -> None:
    """Talk with a model.

    At a terminal it is a conversation: /help lists what else one can do there, and Ctrl-C stops an answer. With PROMPT,
    or with text on stdin, it is one turn, and stdout gets the answer alone. What a model thinks goes to stderr. With
    --json each turn prints one object.
    """
    from unimodel_cli.chat import Screen
    from unimodel_cli.conversation import Conversation

    conversation = Conversation(name, generation.pop("system"), parameters=_parameters(generation, params or []))
    for file in image or []:
        conversation.attach(file)
    screen = Screen(text=not session.json, reasoning=not hide_reasoning)
    headers = {} if timeout is None else {"x-request-timeout-ms": str(max(1, round(timeout * 1000)))}
    if prompt is None and sys.stdin.isatty():
        from unimodel_cli.chat_shell import Shell

        Shell(session, conversation, screen, headers).run()
        return
    conversation.say(_text(prompt))
    _one_turn(session, conversation, screen, headers)


def _one_turn(session: Session, conversation: Any, screen: Any, headers: dict[str, str]) -> None:
    from unimodel_cli.chat import ask

    answer = ask(session.client, conversation, screen, headers)
    if answer.finish_reason == "cancelled":
        raise KeyboardInterrupt
    if session.json:
        session.out.json(answer.to_json(conversation.model))


def _text(prompt: str | None) -> str:
    """The one message: PROMPT, or what is on stdin."""
    if prompt is not None and prompt != "-":
        text = prompt
    else:
        try:
            text = sys.stdin.buffer.read().decode().strip("\r\n")
        except UnicodeDecodeError:
            raise UsageError("stdin is no text.") from None
    if not text.strip():
        raise UsageError("Nothing to say: give a PROMPT, or text on stdin.")
    return text


def _parameters(generation: dict[str, Any], params: list[str]) -> dict[str, Any]:
    """The keys of a request, as OpenAI's dialect calls them."""
    from unimodel_cli.conversation import OWN
    from unimodel_cli.model_options import key_value

    parameters = generation_flags.given(generation)
    schema = parameters.pop("json_schema", None)
    if schema is not None:
        named = {"name": "answer", "schema": schema, "strict": True}
        parameters["response_format"] = {"type": "json_schema", "json_schema": named}
    for setting in params:
        key, value = key_value(setting, "--params")
        if key in OWN:
            raise UsageError(f"--params {setting}: {key} cannot be set here.")
        parameters[key] = value
    return parameters
