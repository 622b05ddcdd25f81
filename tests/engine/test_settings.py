"""Tests of engine.settings: precedence, provenance, and what the errors say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidOption
from engine.settings import TABLE, Setting, Settings, load, nearest, parse


def refused(row: str, value: Any) -> str:
    with pytest.raises(InvalidOption) as e:
        parse(TABLE[row], value, "here")
    assert e.value.field == row
    return e.value.message


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "unimodel.yaml"


# -- the table ------------------------------------------------------------------------------------------------------


def test_nothing_set_is_the_defaults() -> None:
    settings, sources = load(environ={})
    assert settings == Settings()
    assert sources.keys() == TABLE.keys()
    assert {p.source for p in sources.values()} == {"default"}


def test_names_do_not_clash() -> None:
    assert len({row.env for row in TABLE.values()}) == len(TABLE)
    assert len({row.flag for row in TABLE.values()}) == len(TABLE)


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.key)
def test_every_default_is_a_value_that_a_user_could_give(row: Setting) -> None:
    assert row.help.endswith(".")
    assert parse(row, row.default, "default") == row.default
    text = "" if row.default is None else str(row.default)
    assert parse(row, text, "text") == row.default


def test_settings_do_not_change() -> None:
    settings, _ = load(environ={})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.server.port = 1  # type: ignore[misc]


# -- precedence -----------------------------------------------------------------------------------------------------


def test_flag_over_environment_over_file_over_default(config: Path) -> None:
    config.write_text("server: {port: 1, host: a, max_body_mb: 7}\nengine: {max_models: 3}\n")
    environ = {"UNIMODEL_SERVER_PORT": "2", "UNIMODEL_SERVER_HOST": "b"}
    settings, sources = load(config, {"server.port": "3", "server.host": None}, environ)
    assert (settings.server.port, settings.server.host, settings.server.max_body_mb) == (3, "b", 7)
    assert settings.engine.max_models == 3
    assert sources["server.port"].source == "flag --port"
    assert sources["server.host"].source == "env UNIMODEL_SERVER_HOST"
    assert sources["server.max_body_mb"].source == f"file {config}"
    assert sources["server.deadline_ms"].source == "default"
    for key, provenance in sources.items():
        section, _, name = key.partition(".")
        assert provenance.value == getattr(getattr(settings, section), name)


def test_the_variables_of_opentelemetry_are_between_our_own_and_the_file(config: Path) -> None:
    config.write_text("monitoring: {otlp_endpoint: 'http://file:1', service_name: file, trace_sample_ratio: 0.1}\n")
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:2",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:3/v1/traces",
        "OTEL_SERVICE_NAME": "",  # which is as good as not set, says the standard
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
        "UNIMODEL_MONITORING_TRACE_SAMPLE_RATIO": "0.5",
    }
    settings, sources = load(config, {}, environ)
    assert settings.monitoring.otlp_endpoint == "http://traces:3/v1/traces"
    assert sources["monitoring.otlp_endpoint"].source == "env OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    assert settings.monitoring.service_name == "file"
    assert settings.monitoring.trace_sample_ratio == 0.5
    with pytest.raises(InvalidOption, match="'xray' from env OTEL_TRACES_SAMPLER"):
        load(environ={"OTEL_TRACES_SAMPLER": "xray"})


def test_the_file_may_be_named_by_the_environment(config: Path) -> None:
    config.write_text("server: {port: 1}\n")
    settings, _ = load(environ={"UNIMODEL_CONFIG": str(config)})
    assert settings.server.port == 1


def test_a_file_that_sets_nothing(config: Path) -> None:
    for text in ("", "# nothing\n", "server:\n", "server: {}\n"):
        config.write_text(text)
        assert load(config, environ={})[0] == Settings()


# -- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("server.port", "8080", 8080),
        ("server.port", "010", 10),
        ("server.drain_seconds", 5, 5.0),
        ("server.drain_seconds", "1e2", 100.0),
        ("server.grpc_port", "", None),
        ("server.grpc_port", "null", None),
        ("server.host", 12, "12"),
        ("server.host", "off", "off"),
        ("engine.preload", "no", False),
        ("engine.preload", "1", True),
        ("engine.preload", "TRUE", True),
        ("gpu.device_ids", "0", [0]),
        ("gpu.device_ids", 1, [1]),
        ("gpu.device_ids", "0,2", [0, 2]),
        ("gpu.device_ids", "[0, 2]", [0, 2]),
        ("gpu.device_ids", "[]", []),
        ("gpu.device_ids", "none", None),
    ],
)
def test_values(key: str, given: Any, value: Any) -> None:
    parsed = parse(TABLE[key], given, "here")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("server.port", "http", "an integer from 0 to 65535"),
        ("server.port", 65536, "an integer from 0 to 65535"),
        ("server.port", True, "an integer from 0 to 65535"),
        ("server.port", None, "an integer from 0 to 65535"),
        ("server.port", 80.0, "an integer from 0 to 65535"),
        ("server.deadline_ms", "", "an integer of at least 1"),
        ("server.grpc_port", 0, "an integer from 1 to 65535, or unset"),
        ("server.host", "", "text"),
        ("engine.preload", "maybe", "true or false"),
        ("engine.preload", 1, "true or false"),
        ("engine.max_batch_wait_ms", "nan", "a number of at least 0"),
        ("engine.load_timeout_s", float("inf"), "a number of at least 1"),
        ("gpu.device_ids", "0,x", "a list of integers, or unset"),
        ("gpu.device_ids", [-1], "a list of integers, or unset"),
        ("gpu.device_ids", [True], "a list of integers, or unset"),
        ("gpu.memory_fraction", 1.5, "a number from 0.01 to 1.0"),
        ("monitoring.log_format", "xml", "one of json, text"),
    ],
)
def test_bad_values_are_named_with_what_was_expected(key: str, value: Any, expected: str) -> None:
    assert refused(key, value) == f"{key} must be {expected}; got {value!r} from here."


@pytest.mark.parametrize("value", [10**400, "9" * 5000, "x" * 10_000])
def test_a_long_value_is_shortened(value: Any) -> None:
    assert len(refused("engine.max_batch_wait_ms", value)) < 150


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
LIKELY = st.sampled_from(
    ["0x_", "2001-99-99", "!!int a", "[0,1", "[", "1_000", ".inf", "&a [*a]", "\x00", "=", "9" * 5000]
)


@given(st.sampled_from(list(TABLE.values())), ANYTHING | LIKELY)
def test_any_value_is_of_the_settings_type_or_refused(row: Setting, value: Any) -> None:
    try:
        parsed = parse(row, value, "here")
    except InvalidOption as e:
        assert e.field == row.key
        assert row.key in e.message
        assert "here" in e.message
    else:
        optional = {"text": str, "list of integers": list, "integer": int}
        kind = type(row.default) if row.default is not None else optional[row.type_name.removesuffix(", or unset")]
        assert type(parsed) is kind or (parsed is None and row.type_name.endswith("or unset"))
        assert parse(row, parsed, "again") == parsed
        if row.minimum is not None and parsed is not None:
            assert parsed >= row.minimum


@given(st.sampled_from([row for row in TABLE.values() if not row.choices and "host" not in row.key]), st.data())
def test_text_means_what_the_value_means(row: Setting, data: st.DataObject) -> None:
    low = row.minimum if row.minimum is not None else 0
    high = row.maximum if row.maximum is not None else 10**9
    strategies = {
        "integer": st.integers(int(low), int(high)),
        "number": st.floats(low, high),
        "true or false": st.booleans(),
        "list of integers": st.lists(st.integers(0, 99), max_size=4),
        "text": st.sampled_from(["http://localhost:4318", "a b", "7", "Null Island"]),
    }
    value = data.draw(strategies[row.type_name.removesuffix(", or unset")])
    assert parse(row, str(value), "text") == parse(row, value, "value") == value


# -- names ----------------------------------------------------------------------------------------------------------


def test_an_unknown_setting_in_the_file_is_named_with_the_nearest(config: Path) -> None:
    for text, message in (
        ("server: {prot: 1}", "unknown setting 'server.prot'. Did you mean 'server.port'?"),
        ("sever: {port: 1}", "unknown section 'sever'. Did you mean 'server'?"),
        ("7: {port: 1}", "unknown section 7."),
        ("server: 5", "section 'server' must hold a mapping."),
        ("- server", "must hold a mapping of sections, such as 'server:'."),
    ):
        config.write_text(text)
        with pytest.raises(InvalidOption) as e:
            load(config, environ={})
        assert e.value.message.startswith(str(config))
        assert e.value.message.endswith(message)


@pytest.mark.parametrize(
    "text", ["server: {port: [", "a: 2001-99-99", "a: !!int b", "a: !!timestamp b", "\x00", "[" * 5000]
)
def test_a_file_that_is_not_yaml_is_named(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(InvalidOption, match="is not valid YAML") as e:
        load(config, environ={})
    assert str(config) in e.value.message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"none\.yaml: No such file or directory"):
        load(tmp_path / "none.yaml", environ={})
    with pytest.raises(InvalidOption, match="Is a directory"):
        load(tmp_path, environ={})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidOption, match="binary is not valid YAML"):
        load(tmp_path / "binary", environ={})


@pytest.mark.parametrize("name", ["UNIMODEL_SERVER_PROT", "UNIMODEL_PORT", "UNIMODEL_SERVER"])
def test_an_unknown_variable_is_named_with_the_nearest(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"Unknown setting {name} in the environment") as e:
        load(environ={name: "1"})
    assert "Did you mean 'UNIMODEL_SERVER_PORT'?" in e.value.message


def test_other_variables_are_left_alone() -> None:
    environ = {"UNIMODEL_HOST": "http://h", "UNIMODEL_API_KEY": "k", "UNIMODEL_HOME": "/h", "PORT": "1", "HOME": "/"}
    assert load(environ=environ)[0] == Settings()


@pytest.mark.parametrize("service", ["UNIMODEL", "UNIMODEL_SERVER"])
def test_the_variables_of_a_kubernetes_service_of_our_name_are_left_alone(service: str) -> None:
    links = {
        f"{service}_SERVICE_HOST": "10.0.0.1",
        f"{service}_SERVICE_PORT": "8000",
        f"{service}_SERVICE_PORT_HTTP": "8000",
        f"{service}_PORT": "tcp://10.0.0.1:8000",
        f"{service}_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        f"{service}_PORT_8000_TCP_ADDR": "10.0.0.1",
        f"{service}_PORT_8000_TCP_PROTO": "tcp",
    }
    assert load(environ=links)[0] == Settings()


def test_nearest() -> None:
    assert nearest("prot", ["port", "host"]) == " Did you mean 'port'?"
    assert nearest("zzz", ["port", "host"]) == ""


SECTIONS = {key.partition(".")[0] for key in TABLE}


@given(st.dictionaries(st.sampled_from(sorted(SECTIONS)) | st.text(max_size=4), ANYTHING, max_size=3))
def test_any_yaml_file_is_taken_or_refused_with_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    config = tmp_path_factory.mktemp("settings") / "unimodel.yaml"
    config.write_text(yaml.safe_dump(document), errors="surrogateescape")
    try:
        load(config, environ={})
    except InvalidOption as e:
        assert e.message.endswith((".", "?"))
