"""A request, checked against the model, as what its backend takes and how its output is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.base import GenerationInfo
from backends.generation import IMAGE, Generation
from engine.errors import InvalidInput
from engine.generation.grammar import for_request
from engine.generation.output import OutputParser
from engine.generation.pictures import decode_pictures
from engine.generation.reasoning import HARMONY_REASONING, is_open
from engine.transport.generation import GenerateRequest, Tool

if TYPE_CHECKING:
    from engine.generation.template import ChatTemplate

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_STOPS = 16
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a request comes to."""

    generation: Generation
    parser: Callable[[], OutputParser]
    """Makes the parser of one choice."""


def prepare(request: GenerateRequest, template: ChatTemplate | None, info: GenerationInfo) -> Prepared:
    """Applies the chat template and builds the grammar. Raises `InvalidInput`, which names the field at fault."""
    _check(request, info)
    if request.messages is None:
        return _of_prompt(request, info)
    if template is None:
        raise InvalidInput(
            "This is a base model: it has no chat template, and only completes text. Send a prompt instead of "
            "messages, or set the model's option chat_template.",
            field="messages",
        )
    return _of_messages(request, template, info)


def _of_prompt(request: GenerateRequest, info: GenerationInfo) -> Prepared:
    if request.prompt is None:
        raise InvalidInput("A request needs messages or a prompt.", field="prompt")
    for name, given in (("tools", request.tools), ("continue_message", request.continue_message)):
        if given:
            raise InvalidInput(f"{name} need a conversation; send messages instead of a prompt.", field=name)
    prompt = request.prompt if isinstance(request.prompt, str) else tuple(request.prompt)
    if request.suffix is not None and not info.infill:
        raise InvalidInput("This model does not fill gaps; send the prompt without a suffix.", field="suffix")
    _check_images(request.images, info, "images")
    places = prompt.count(IMAGE) if isinstance(prompt, str) else 0
    if places != len(request.images) and (places or request.images) and info.images:
        raise InvalidInput(
            f"The prompt has {places} places for images ({IMAGE}), and {len(request.images)} images came.",
            field="images",
        )
    generation = _generation(
        request,
        prompt=prompt,
        add_bos=not request.raw,
        suffix=request.suffix,
        images=decode_pictures(request.images, "images"),
        grammar=for_request(request, None),
    )
    return Prepared(generation, OutputParser)


def _of_messages(request: GenerateRequest, template: ChatTemplate, info: GenerationInfo) -> Prepared:
    if request.prompt is not None or request.suffix is not None or request.images:
        field = "prompt" if request.prompt is not None else "suffix" if request.suffix is not None else "images"
        raise InvalidInput(f"Messages and {field} cannot be combined; leave out one of them.", field=field)
    if not request.messages:
        raise InvalidInput("There must be at least one message.", field="messages")
    tools = request.tools if request.tool_choice.mode != "none" else []
    rendered = template.render(request.messages, tools, request.template_options, request.continue_message)
    _check_images(rendered.images, info, "messages")
    form = template.tool_format if tools else None
    reasoning = template.reasoning
    if reasoning is not HARMONY_REASONING and not request.separate_reasoning:
        reasoning = None
    opened = reasoning is not None and is_open(rendered.text, reasoning)
    if request.continue_message and not opened:
        reasoning = reasoning if reasoning is HARMONY_REASONING else None
    done = reasoning is not None and rendered.text.rstrip().endswith(reasoning.end)
    generation = _generation(
        request,
        prompt=rendered.text,
        add_bos=not (info.bos and rendered.text.startswith(info.bos)),
        images=decode_pictures(rendered.images, "messages"),
        grammar=for_request(request, form, None if done else reasoning, opened),
        keep_special=form is not None or template.reasoning is not None,
    )

    def parser() -> OutputParser:
        return OutputParser(form, reasoning, reasoning_open=opened, tools=tools, whole_calls=not request.stream)

    return Prepared(generation, parser)


def _generation(request: GenerateRequest, grammar: str | None, **of_prompt: Any) -> Generation:
    if grammar is not None and request.ignore_eos:
        raise InvalidInput(
            "ignore_eos makes an answer that never ends; it cannot be combined with a format or with required calls.",
            field="ignore_eos",
        )
    return Generation(
        sampling=request.sampling,
        choices=request.choices,
        max_tokens=request.max_tokens,
        stop=tuple(request.stop),
        stop_tokens=tuple(request.stop_tokens),
        ignore_eos=request.ignore_eos,
        logprobs=request.logprobs,
        truncate=request.truncate,
        adapters=request.adapters,
        grammar=grammar,
        **of_prompt,
    )


# --- what cannot be asked ---


def _check(request: GenerateRequest, info: GenerationInfo) -> None:
    _check_range("choices", request.choices, 1, MAX_CHOICES)
    if request.logprobs is not None:
        _check_range("logprobs", request.logprobs, 0, MAX_LOGPROBS)
    if request.max_tokens is not None:
        _check_range("max_tokens", request.max_tokens, 1, None)
    if len(request.stop) > MAX_STOPS or not all(request.stop):
        raise InvalidInput(f"stop must have at most {MAX_STOPS} texts, none of them empty.", field="stop")
    for name in request.adapters:
        if name not in info.adapters:
            known = ", ".join(info.adapters) or "none"
            raise InvalidInput(f"The model has no adapter {name!r}; its adapters: {known}.", field="adapters")
    _check_tools(request.tools)
    choice = request.tool_choice
    if choice.mode == "required" and not request.tools:
        raise InvalidInput("tool_choice requires a call, and there are no tools.", field="tool_choice")
    if choice.name is not None and choice.name not in (tool.name for tool in request.tools):
        raise InvalidInput(f"tool_choice names {choice.name!r}, which is none of the tools.", field="tool_choice")


def _check_range(field: str, value: int, least: int, most: int | None) -> None:
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidInput(f"{field} must be {bounds}; got {value}.", field=field)


def _check_tools(tools: list[Tool]) -> None:
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        field = f"tools.{index}.name"
        if not _TOOL_NAME.fullmatch(tool.name):
            raise InvalidInput(
                f"The name of a tool has up to 128 letters, digits and the signs _.:/-; got {tool.name[:200]!r}.",
                field=field,
            )
        if tool.name in seen:
            raise InvalidInput(f"Two tools have the name {tool.name!r}.", field=field)
        seen.add(tool.name)


def _check_images(images: tuple[bytes, ...] | list[bytes], info: GenerationInfo, field: str) -> None:
    if images and not info.images:
        raise InvalidInput(
            "This model does not see images; send text alone, or register it with its projector (--set mmproj=FILE).",
            field=field,
        )
