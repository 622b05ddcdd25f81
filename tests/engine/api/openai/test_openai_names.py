"""Tests of how the engine's names of fields become OpenAI's in errors."""

from __future__ import annotations

import pytest

from engine.api.openai.common import CHAT_NAMES, COMPLETION_NAMES, RESPONSE_NAMES, Names, naming
from engine.errors import InvalidInput


@pytest.mark.parametrize(
    ("names", "field", "expected"),
    [
        (CHAT_NAMES, "response_format.regex", "regex"),
        (CHAT_NAMES, "response_format.json_schema.properties.a", "response_format.json_schema.schema.properties.a"),
        (CHAT_NAMES, "response_format", "response_format"),
        (CHAT_NAMES, "tools.12.parameters.type", "tools[12].function.parameters.type"),
        (CHAT_NAMES, "template_options.messages", "chat_template_kwargs.messages"),
        (CHAT_NAMES, "continue_message", "continue_final_message"),
        (CHAT_NAMES, "prompt", "messages"),
        (CHAT_NAMES, "messages[1].content", "messages[1].content"),
        (CHAT_NAMES, "stop_tokens", "stop_token_ids"),
        (CHAT_NAMES, "stop", "stop"),
        (CHAT_NAMES, None, None),
        (COMPLETION_NAMES, "response_format.grammar", "grammar"),
        (COMPLETION_NAMES, "prompt", "prompt"),
        (RESPONSE_NAMES, "response_format.regex", "regex"),
        (RESPONSE_NAMES, "response_format.json_schema", "text.format.schema"),
        (RESPONSE_NAMES, "response_format", "text.format"),
        (RESPONSE_NAMES, "tools.0.name", "tools[0].name"),
        (RESPONSE_NAMES, "max_tokens", "max_output_tokens"),
        (RESPONSE_NAMES, "prompt", "input"),
        ({r"parameters\.": ""}, "parameters.dimensions", "dimensions"),
        ({r"(parameters|input)\.": ""}, "input.documents[1]", "documents[1]"),
    ],
)
def test_errors_name_openais_fields(names: Names, field: str | None, expected: str | None) -> None:
    with pytest.raises(InvalidInput) as error, naming(names):
        raise InvalidInput("m", field=field)
    assert error.value.field == expected
