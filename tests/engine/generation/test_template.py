"""From conversations to prompts, by templates of every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.generation import IMAGE
from engine.errors import InvalidInput, InvalidOption
from engine.generation.template import ChatTemplate
from engine.transport.generation import ImagePart, Message, TextPart, Tool, ToolCall
from tests.engine.generation import templates
from tests.engine.generation.conversations import WEATHER
from tests.engine.generation.llama_grammar import chat_template

USER = Message(role="user", content="How is the weather in Paris?")
SYSTEM = Message(role="system", content="Be brief.")
CALL = ToolCall(id="call_abcdefghijkl", name="get_weather", arguments='{"city": "Paris"}')
CALLING = Message(role="assistant", tool_calls=[CALL])
RESULT = Message(role="tool", content="sunny", tool_call_id=CALL.id)
ANSWER = Message(role="assistant", content="It is sunny.")


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, "<s>", "</s>")


def prompt(
    source: str,
    *messages: Message,
    tools: list[Tool] | None = None,
    continue_message: bool = False,
    **options: Any,
) -> str:
    return template(source).render(list(messages), tools or [], options, continue_message).text


@pytest.fixture(scope="module")
def smollm2() -> ChatTemplate:
    """The template that SmolLM2 brings along."""
    return ChatTemplate(chat_template(), "<|im_start|>", "<|im_end|>")


def test_a_real_template(smollm2: ChatTemplate) -> None:
    assert smollm2.supports_system
    assert not smollm2.supports_tools
    assert not smollm2.thinks
    assert smollm2.render([USER], [], {}, False).text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHow is the weather in Paris?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert smollm2.render([SYSTEM, USER, ANSWER, USER], [], {}, False).text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHow is the weather in Paris?<|im_end|>\n"
        "<|im_start|>assistant\nIt is sunny.<|im_end|>\n"
        "<|im_start|>user\nHow is the weather in Paris?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_and_all_that_follows_from_them_with_a_real_template_that_knows_none(smollm2: ChatTemplate) -> None:
    text = smollm2.render([SYSTEM, USER, CALLING, RESULT], [WEATHER], {}, False).text
    system, user, calling, result, rest = text.split("<|im_end|>\n")
    assert system.startswith("<|im_start|>system\nBe brief.\n\nYou can call functions.")
    assert '"name": "get_weather"' in system
    assert "<tool_call>" in system
    assert user == "<|im_start|>user\nHow is the weather in Paris?"
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert calling == f"<|im_start|>assistant\n{call}"
    assert result == "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>"
    assert rest == "<|im_start|>assistant\n"


def test_tools_of_a_template_that_knows_them() -> None:
    hermes = template(templates.HERMES)
    assert hermes.supports_tools
    assert hermes.tool_format.name == "hermes"
    text = hermes.render([SYSTEM, USER, CALLING, RESULT], [WEATHER], {}, False).text
    tool = {
        "type": "function",
        "function": {"name": "get_weather", "description": "The weather of a day.", "parameters": WEATHER.parameters},
    }
    assert text == (
        f"<|im_start|>system\nBe brief.\n\nTools:\n{json.dumps(tool)}\n"
        "Call them in <tool_call></tool_call>.<|im_end|>\n"
        "<|im_start|>user\nHow is the weather in Paris?<|im_end|>\n"
        '<|im_start|>assistant\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_ids_are_shortened_where_the_template_wants_nine_characters() -> None:
    text = prompt(templates.MISTRAL, USER, CALLING, RESULT, tools=[WEATHER])
    _, _, calls = text.partition("[TOOL_CALLS]")
    call = json.loads(calls.partition("</s>")[0])[0]
    assert (call["name"], call["arguments"]) == ("get_weather", {"city": "Paris"})
    assert len(call["id"]) == 9
    assert f'"call_id": "{call["id"]}", "content": sunny' in calls
    short = Message(role="assistant", tool_calls=[ToolCall(id="abcde1234", name="f", arguments="{}")])
    assert '"id": "abcde1234"' in prompt(templates.MISTRAL, USER, short)


def test_arguments_are_text_where_the_template_wants_that() -> None:
    text = prompt(templates.DEEPSEEK, USER, CALLING, RESULT, tools=[WEATHER])
    assert (
        '<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜tool'
        in text
    )
    assert "None" not in text


def test_tools_are_described_in_the_form_that_the_template_shows_calls_in() -> None:
    deepseek = template(templates.DEEPSEEK)
    assert not deepseek.supports_tools
    assert deepseek.tool_format.name == "deepseek"
    text = deepseek.render([USER], [WEATHER], {}, False).text
    assert text.startswith("You can call functions.")
    assert "<｜tool▁call▁begin｜>function<｜tool▁sep｜>function_name" in text


def test_tools_in_the_system_message() -> None:
    phi = template(templates.IN_THE_MESSAGE)
    assert phi.supports_tools
    assert phi.tool_format.name == "phi"
    text = phi.render([USER], [WEATHER], {}, False).text
    assert text.startswith("<|system|><|tool|>[{")
    assert json.loads(text.partition("<|tool|>")[2].partition("<|/tool|>")[0])[0]["name"] == "get_weather"
    text = phi.render([SYSTEM, USER, CALLING], [WEATHER], {}, False).text
    assert text.startswith("<|system|>Be brief.<|tool|>[{")
    assert '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]<|/tool_call|>' in text


def test_a_system_message_that_the_template_does_not_know_goes_to_the_user() -> None:
    assert not template(templates.ALTERNATING).supports_system
    assert prompt(templates.ALTERNATING, SYSTEM, USER) == (
        "<s><turn>user\nBe brief.\n\nHow is the weather in Paris?</turn>\n<turn>assistant\n"
    )
    assert prompt(templates.ALTERNATING, SYSTEM) == "<s><turn>user\nBe brief.</turn>\n<turn>assistant\n"


def test_what_the_template_refuses_is_told() -> None:
    with pytest.raises(InvalidInput, match="roles must alternate user/assistant") as caught:
        prompt(templates.ALTERNATING, USER, USER)
    assert caught.value.field == "messages"


def test_developers_are_the_system_where_the_template_does_not_know_them() -> None:
    developer = Message(role="developer", content="Be brief.")
    assert prompt(templates.CHATML, developer, USER).startswith("<|im_start|>system\nBe brief.")
    knowing = templates.CHATML + "{# 'developer' #}"
    assert prompt(knowing, developer, USER).startswith("<|im_start|>developer\nBe brief.")


def test_a_message_is_continued() -> None:
    start = Message(role="assistant", content="It is ")
    text = prompt(templates.CHATML, USER, start, continue_message=True)
    assert text.endswith("<|im_start|>assistant\nIt is ")
    assert prompt(templates.TYPED, USER, start, continue_message=True).endswith("[assistant]It is ")
    assert prompt(templates.ALTERNATING, USER, start, continue_message=True).endswith("<turn>assistant\nIt is ")


@pytest.mark.parametrize("last", [USER, CALLING])
def test_only_text_of_the_assistant_is_continued(last: Message) -> None:
    with pytest.raises(InvalidInput, match="can be continued"):
        prompt(templates.CHATML, USER, last, continue_message=True)


def test_a_message_that_is_not_shown_cannot_be_continued() -> None:
    source = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(InvalidInput, match="cannot continue"):
        prompt(source, USER, ANSWER, continue_message=True)


def test_thoughts_and_options_reach_the_template() -> None:
    hermes = template(templates.HERMES)
    assert hermes.thinks
    assert hermes.render([USER], [], {"enable_thinking": False}, False).text.endswith("<think>\n\n</think>\n\n")
    thought = Message(role="assistant", content="Yes.", reasoning="Let me see.")
    assert "<think>\nLet me see.\n</think>\n\nYes." in prompt(templates.HERMES, USER, thought)


@pytest.mark.parametrize("name", ["messages", "tools", "bos_token", "add_generation_prompt"])
def test_options_do_not_replace_the_request(name: str) -> None:
    with pytest.raises(InvalidInput, match="leave it out") as caught:
        template(templates.CHATML).render([USER], [], {name: "x"}, False)
    assert caught.value.field == f"template_options.{name}"


def test_images_have_their_places() -> None:
    parts: list[TextPart | ImagePart] = [
        TextPart(text="Compare "),
        ImagePart(data=b"one"),
        TextPart(text=" and "),
        ImagePart(data=b"two"),
    ]
    for source in (templates.CHATML, templates.TYPED):
        rendered = template(source).render([Message(role="user", content=parts)], [], {}, False)
        assert f"Compare {IMAGE} and {IMAGE}" in rendered.text
        assert rendered.images == (b"one", b"two")


def test_the_mark_of_images_is_reserved() -> None:
    with pytest.raises(InvalidInput, match="reserved mark"):
        prompt(templates.CHATML, Message(role="user", content=f"What is {IMAGE}?"))


def test_a_template_that_does_not_expect_none_for_tools() -> None:
    assert prompt(templates.UNDEFINED_TOOLS, USER).startswith("<|im_start|>user")


@pytest.mark.parametrize("arguments", ["{a}", "[1]", "[" * 5000])
@pytest.mark.parametrize("source", [templates.HERMES, templates.CHATML, templates.CHATML + "{# <arg_key> #}"])
def test_arguments_in_a_conversation_are_objects(source: str, arguments: str) -> None:
    bad = Message(role="assistant", tool_calls=[ToolCall(id="x", name="f", arguments=arguments)])
    with pytest.raises(InvalidInput, match="'f' are not a JSON object") as caught:
        prompt(source, USER, bad)
    assert caught.value.field == "messages"


def test_calls_without_arguments() -> None:
    bare = Message(role="assistant", tool_calls=[ToolCall(id="x", name="f", arguments="")])
    assert '{"name": "f", "arguments": {}}' in prompt(templates.HERMES, USER, bare)
    assert '{"name": "f", "arguments": {}}' in prompt(templates.CHATML, USER, bare)
    assert "<tool_call>f\n</tool_call>" in prompt(templates.CHATML + "{# <arg_key> #}", USER, bare)


def test_a_conversation_that_breaks_the_template() -> None:
    source = templates.CHATML + "{{ messages[1].content.missing.more }}"
    with pytest.raises(InvalidOption):
        template(source)
    source = templates.CHATML + "{% if messages|length > 4 %}{{ messages[1].content.missing.more }}{% endif %}"
    with pytest.raises(InvalidInput, match="cannot show this conversation") as caught:
        prompt(source, *[USER] * 5)
    assert caught.value.field == "messages"


def test_a_conversation_that_the_template_makes_too_much_of() -> None:
    source = templates.CHATML + "{% if messages|length > 4 %}{{ 'x' * 10 ** 9 }}{% endif %}"
    with pytest.raises(InvalidInput, match="too much text"):
        prompt(source, *[USER] * 5)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("line\n{% if %}", "line 2"),
        ("{{ messages|unknown_filter }}", "unknown_filter"),
        ("nothing of the messages", "leaves out the content"),
        ("{{ raise_exception('never') }}", "never"),
        ("x" * 2_000_000, "characters"),
    ],
)
def test_a_template_that_cannot_be_used(source: str, problem: str) -> None:
    with pytest.raises(InvalidOption, match=problem) as caught:
        template(source)
    assert caught.value.field == "config.chat_template"
