"""The prompt of `unimodel chat`: turn after turn, with slash commands, history and completion."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UniModelError
from unimodel_cli.chat import Screen, ask
from unimodel_cli.conversation import OWN, Conversation
from unimodel_cli.errors import UsageError
from unimodel_cli.output import print_error

if TYPE_CHECKING:
    from unimodel_cli.command import Session

PROMPT = ">>> "
MORE = "... "
QUOTES = '"""'
HISTORY_LINES = 1000
PARAMETERS = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
    "seed", "stop", "truncate", "ignore_eos",
)  # fmt: skip
"""Offered after ``/set``; the server knows more, and says so when it does not know one."""


@dataclass(frozen=True)
class Slash:
    """A slash command."""

    usage: str
    help: str
    run: Callable[[str], None]
    files: bool = False
    """Whether its argument is a file."""


class Leave(Exception):
    """The user is done."""


class Shell:
    """One conversation at a terminal."""

    def __init__(self, session: Session, conversation: Conversation, screen: Screen, headers: dict[str, str]) -> None:
        self._session = session
        self._conversation = conversation
        self._screen = screen
        self._headers = headers
        self._lines = Lines(session.home.path / "chat_history", self._complete)
        self._commands = {
            "/help": Slash("/help", "this list", self._help),
            "/system": Slash("/system [TEXT]", "set the system message, or without TEXT show it", self._system),
            "/set": Slash("/set [NAME [VALUE]]", "set a parameter such as temperature; without VALUE unset", self._set),
            "/image": Slash("/image FILE", "send an image with the next message", self._image, files=True),
            "/undo": Slash("/undo", "take back the last message and its answer", self._undo),
            "/retry": Slash("/retry", "answer the last message again", self._retry),
            "/reset": Slash("/reset", "forget what was said", self._reset),
            "/save": Slash("/save FILE", "write the conversation into a file", self._save, files=True),
            "/load": Slash("/load FILE", "go on with a saved conversation", self._load, files=True),
            "/quit": Slash("/quit", "leave, as Ctrl-D does", self._quit),
        }

    def run(self) -> None:
        """Asks and answers until the user leaves. An error ends a turn, not the conversation."""
        self._note(f"Chatting with {self._conversation.model}. /help lists the commands, Ctrl-D leaves.")
        with self._lines:
            while True:
                try:
                    text = self._read()
                    if text.startswith("/"):
                        self._command(text)
                    elif text.strip():
                        self._turn(text)
                except (EOFError, Leave):
                    return
                except UniModelError as e:
                    print_error(e, json_mode=self._session.json)

    def _read(self) -> str:
        """One message: a line, or several between triple quotes. Raises `EOFError`."""
        text = self._lines.read(PROMPT)
        if not text.lstrip().startswith(QUOTES):
            return text
        text = text.lstrip().removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + self._lines.read(MORE)
        return " " + text.rstrip().removesuffix(QUOTES).strip("\n")  # a slash in it is no command

    def _turn(self, text: str) -> None:
        self._conversation.say(text.strip())
        self._answer()

    def _answer(self) -> None:
        """Has the model answer the last message, which is taken back when nothing comes of it."""
        answer = None
        try:
            answer = ask(self._session.client, self._conversation, self._screen, self._headers)
        finally:
            if answer is None or not answer.content:
                self._conversation.undo()
        if answer.content:
            self._conversation.answer(answer.content)
        if self._session.json:
            self._session.out.json(answer.to_json(self._conversation.model))
        elif answer.finish_reason == "cancelled":
            self._note("(stopped)")
        elif answer.finish_reason == "length":
            self._note("(cut off at max_tokens, or at the end of the context)")

    def _note(self, text: str) -> None:
        self._session.out.note(text)

    # --- slash commands ----------------------------------------------------------------------------------------------

    def _command(self, text: str) -> None:
        name, _, argument = text.strip().partition(" ")
        found = self._commands.get({"/exit": "/quit", "/bye": "/quit", "/?": "/help"}.get(name, name))
        if found is None:
            raise UsageError(f"There is no command {name}; /help lists them. A message may begin with a space.")
        if found.files and not argument.strip():
            raise UsageError(f"Usage: {found.usage}")
        found.run(argument.strip())

    def _help(self, _: str) -> None:
        width = max(len(c.usage) for c in self._commands.values())
        for command in self._commands.values():
            self._note(f"  {command.usage:<{width}}  {command.help}")
        self._note(f"  {QUOTES:<{width}}  begins and ends a message of several lines")
        self._note(f"  {'Ctrl-C':<{width}}  stops the answer; at the prompt, leaves")

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = text
        self._note(f"System message: {self._conversation.system or 'none'}")

    def _set(self, argument: str) -> None:
        import yaml

        name, _, text = argument.partition(" ")
        parameters = self._conversation.parameters
        if name in OWN:
            raise UsageError(f"{name} cannot be set here.")
        if text.strip():
            try:
                parameters[name] = yaml.safe_load(text)
            except yaml.YAMLError:
                raise UsageError(f"{text.strip()!r} is no value; quote it if it is text.") from None
        elif name:
            parameters.pop(name, None)
        shown = ", ".join(f"{k}={v!r}" for k, v in parameters.items())
        self._note(f"Parameters: {shown or 'those of the model'}")

    def _image(self, file: str) -> None:
        self._conversation.attach(file)
        self._note(f"{file} goes with the next message.")

    def _undo(self, _: str) -> None:
        if self._conversation.undo() is None:
            raise UsageError("Nothing was said yet.")
        self._note("Took back the last message.")

    def _retry(self, _: str) -> None:
        last = self._conversation.undo()
        if last is None:
            raise UsageError("Nothing was said yet.")
        self._conversation.messages.append(last)
        self._answer()

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        self._note("Forgot what was said.")

    def _save(self, file: str) -> None:
        self._conversation.save(Path(file).expanduser())
        self._note(f"Saved into {file}.")

    def _load(self, file: str) -> None:
        self._conversation.load(Path(file).expanduser())
        turns = sum(m["role"] == "user" for m in self._conversation.messages)
        self._note(f"Loaded {turns} turn{'' if turns == 1 else 's'} from {file}.")

    def _quit(self, _: str) -> None:
        raise Leave

    def _complete(self, line: str, word: str) -> list[str]:
        """What may follow at the end of `line`, whose last word so far is `word`."""
        name, space, _ = line.partition(" ")
        if not space:
            fitting = [c for c in self._commands if c.startswith(word)] if line.startswith("/") else []
            return [c if self._commands[c].usage == c else f"{c} " for c in fitting]
        if name in self._commands and self._commands[name].files:
            found = glob.glob(glob.escape(os.path.expanduser(word)) + "*")  # noqa: PTH111, PTH207 - keeps "./"
            return [f + "/" if Path(f).is_dir() else f for f in sorted(found)]
        return [p for p in PARAMETERS if p.startswith(word)] if name == "/set" else []


class Lines:
    """Reads lines from a terminal, through readline (history, editing, completion) where stdout is one too."""

    def __init__(self, history: Path, complete: Callable[[str, str], list[str]]) -> None:
        self._history = history
        self._complete = complete
        self._readline: Any = None

    def __enter__(self) -> Lines:
        if not sys.stdout.isatty():
            return self
        with suppress(ImportError):
            import readline

            self._readline = readline
            readline.set_completer(self._offer)
            readline.set_completer_delims(" \t\n")
            readline.parse_and_bind("tab: complete")
            readline.set_history_length(HISTORY_LINES)
            with suppress(OSError):
                readline.read_history_file(self._history)
        return self

    def __exit__(self, *_: object) -> None:
        """Keeps the history, for the user alone to read."""
        if self._readline is None:
            return
        with suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._history, os.O_CREAT | os.O_WRONLY, 0o600))
            self._readline.write_history_file(self._history)

    def read(self, prompt: str) -> str:
        """One line. Raises `EOFError` at the end, and `KeyboardInterrupt` by Ctrl-C, each after ending the line."""
        try:
            if self._readline is not None:
                return input(prompt)
            sys.stderr.write(prompt)
            sys.stderr.flush()
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line.removesuffix("\n")
        except (EOFError, KeyboardInterrupt):
            sys.stderr.write("\n")
            raise

    def _offer(self, word: str, state: int) -> str | None:
        offers = self._complete(self._readline.get_line_buffer().lstrip(), word)
        return offers[state] if state < len(offers) else None
