"""Providers of the endpoint collector beyond OpenAI servers: what they send and how they read what comes, piece by piece."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from cloud_doubles import PROMPT_TOKENS, WORDS, container
from hypothesis import given
from hypothesis import strategies as st

from collectors.endpoint import _providers
from collectors.endpoint._providers import Asked, Reader, Target, _formats, azure, bedrock, openai, tgi
from collectors.endpoint._stream import StreamError

KEY = "planted-key/4f9a+not-for-anyone"
TEXT = "".join(WORDS)


def read(reader: Reader, *pieces: bytes) -> Reader:
    """The reader after the pieces, one a second."""
    for at, piece in enumerate(pieces):
        reader.feed(piece, float(at + 1))
    reader.close(float(len(pieces)))
    return reader


def tokens(*texts: str | None, **last: Any) -> list[bytes]:
    """Events of text-generation-inference; None is a special token."""
    values: list[dict[str, Any]] = [
        {
            "token": {"id": 1, "text": "</s>" if text is None else text, "logprob": -1, "special": text is None},
            "generated_text": None,
        }
        for text in texts
    ]
    values[-1] |= last
    return [f"data:{json.dumps(value)}\n\n".encode() for value in values]


def tgi_target(**options: Any) -> Target:
    return tgi.target(Asked("http://127.0.0.1:8080", "m", **options))


# --- text-generation-inference ----------------------------------------------------------------------------------------


def test_tgi_asks_for_details_and_its_key_stays_in_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", KEY)
    target = tgi_target(extra_body={"parameters": {"do_sample": None, "top_k": 5}})
    asked = tgi.request(target, "hi", 9)
    assert asked.url == "http://127.0.0.1:8080/generate_stream"
    assert json.loads(asked.body) == {"inputs": "hi", "parameters": {"max_new_tokens": 9, "details": True, "top_k": 5}}
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(target) + repr(asked)
    assert tgi.request(tgi_target(is_streaming=False), "hi", 9).url == "http://127.0.0.1:8080/generate"


def test_tgi_stream() -> None:
    details = {"finish_reason": "length", "generated_tokens": 3, "input_length": 11, "seed": None}
    answer = read(tgi.reader(tgi_target()), *tokens("a", " b", " c", generated_text="a b c", details=details)).answer
    assert (answer.text, answer.finish_reason, answer.input_tokens) == ("a b c", "length", 11)
    assert answer.output_tokens() == (3, "usage")
    assert answer.chunk_times_s == [1.0, 2.0, 3.0]
    assert answer.chunk_tokens() == [1, 1, 1]
    assert answer.is_complete
    assert not answer.is_whole


def test_tgi_special_tokens_count_but_are_no_text() -> None:
    details = {"finish_reason": "eos_token", "generated_tokens": 3, "seed": None}
    answer = read(tgi.reader(tgi_target()), *tokens("a", " b", None, generated_text="a b", details=details)).answer
    assert (answer.text, answer.finish_reason) == ("a b", "stop")
    assert answer.output_tokens() == (3, "usage")
    assert answer.chunk_times_s == [1.0, 2.0]


def test_tgi_token_of_half_a_character_joins_the_next_chunk() -> None:
    details = {"finish_reason": "length", "generated_tokens": 3}
    events = tokens("a", "", "é", generated_text="aé", details=details)
    answer = read(tgi.reader(tgi_target()), *events).answer
    assert answer.text == "aé"
    assert answer.chunk_tokens() == [1, 2]


def test_tgi_whole_answer() -> None:
    whole, _ = container({"inputs": "hi", "parameters": {"max_new_tokens": 5}}, False)
    for body in (whole, [whole]):
        answer = read(tgi.reader(tgi_target(is_streaming=False)), json.dumps(body).encode()).answer
        assert (answer.text, answer.input_tokens, answer.usage_tokens) == (TEXT, PROMPT_TOKENS, 5)
        assert answer.is_whole
        assert answer.is_complete


def test_tgi_error_in_the_stream_and_cut_streams() -> None:
    with pytest.raises(StreamError, match="The server reports an error: Model is overloaded"):
        read(
            tgi.reader(tgi_target()),
            *tokens("a"),
            b'data:{"error":"Model is overloaded","error_type":"overloaded"}\n\n',
        )
    assert not read(tgi.reader(tgi_target()), *tokens("a", "b")).answer.is_complete


def test_tgi_says_that_it_cannot_fix_a_length() -> None:
    with pytest.raises(ValueError, match="cannot be told to ignore the end-of-sequence token"):
        tgi_target(ignore_eos=True)
    with pytest.raises(ValueError, match="No server is named"):
        tgi.target(Asked(None, "m"))


# --- bodies in other shapes -------------------------------------------------------------------------------------------


@given(
    style=st.sampled_from(["inputs", "messages"]),
    ending=st.sampled_from([b"\n", b"\r\n", b""]),
    cuts=st.lists(st.integers(0, 900)),
)
def test_streams_survive_every_cut(style: str, ending: bytes, cuts: list[int]) -> None:
    asked = {"inputs": "", "parameters": {"max_new_tokens": 5}} if style == "inputs" else {"max_tokens": 5}
    _, pieces = container(asked, True)
    stream = b"".join(pieces).rstrip(b"\n") + ending
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    answer = read(_formats.FormatReader(), *(stream[a:b] for a, b in itertools.pairwise(borders))).answer
    assert (answer.text, answer.output_tokens(), answer.input_tokens) == (TEXT, (5, "usage"), PROMPT_TOKENS)
    assert answer.is_complete
    assert not answer.is_whole


def test_pretty_printed_answers_and_blank_starts() -> None:
    whole, _ = container({"max_tokens": 5}, False)
    answer = read(
        _formats.FormatReader(), b"\n ", *(line + b"\n" for line in json.dumps(whole, indent=1).encode().split(b"\n"))
    ).answer
    assert answer.text == TEXT
    assert answer.is_whole


@pytest.mark.parametrize(
    ("prediction", "text"),
    [
        ("Prompt:\nhi\nOutput:\nthere", "there"),
        ("there", "there"),
        ({"generated_text": "there"}, "there"),
        ([{"generated_text": "there"}], "there"),
        ({"output": ["the", "re"]}, "there"),
        ({"choices": [{"message": {"content": "there"}, "finish_reason": "stop"}]}, "there"),
    ],
)
def test_predictions_of_every_shape(prediction: Any, text: str) -> None:
    for predictions in ([prediction], prediction):
        answer = read(_formats.FormatReader(), json.dumps({"predictions": predictions}).encode()).answer
        assert answer.text == text
        assert answer.is_whole
        assert answer.is_complete


def test_numbers_of_the_server_are_kept() -> None:
    prediction = {
        "text": "there",
        "metrics": {"latency_ms": 12.5, "is_warm": True, "device": "T4"},
        "memory": {"peak_bytes": 2**30},
        "layers": [{"name": "attn", "time_ms": 1}, {"name": "mlp", "time_ms": 2.5}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    body = {"predictions": [prediction], "deployedModelId": "99", "queue_s": 0.25}
    reader = _formats.FormatReader()
    answer = read(reader, json.dumps(body).encode()).answer
    assert answer.server_metrics == {
        "queue_s": 0.25, "metrics.latency_ms": 12.5, "memory.peak_bytes": 2.0**30, "layers.0.time_ms": 1.0, "layers.1.time_ms": 2.5
    }  # fmt: skip
    assert (answer.input_tokens, answer.usage_tokens) == (3, 1)


def test_server_metrics_are_bounded() -> None:
    prediction = {"text": "a", "layers": list(range(5000)), "deep": json.loads("[" * 50 + "1" + "]" * 50)}
    answer = read(_formats.FormatReader(), json.dumps({"predictions": [prediction]}).encode()).answer
    assert len(answer.server_metrics) == _formats.MAX_SERVER_METRICS


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[1, 2]", "no text and no object"),
        (b'{"predictions": []}', "no text and no object"),
        (b'{"predictions": null}', "no text and no object"),
        (b'{"error": {"code": 429, "message": "Quota exceeded"}}', "Quota exceeded"),
        (b'{"a": ', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"choices": 3}', "not a chunk"),
        (b'{"token": {"text": 3}}', "not text"),
        (b'{"generated_text": "", "details": {"finish_reason": "error", "generated_tokens": null}}', "reason 'error'"),
        (
            b'{"token": {"id": -1, "text": "", "special_token": true}, "details": {"finish_reason": "error"}}',
            "reason 'error'",
        ),
    ],
)
def test_broken_answers_say_so(body: bytes, said: str) -> None:
    with pytest.raises(StreamError, match=said):
        read(_formats.FormatReader(), body)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["predictions", "token", "choices", "usage", "details", "generated_text", "text", "error", "message"]), inner
)))  # fmt: skip
def test_no_json_value_breaks_the_reader(value: Any) -> None:
    reader = _formats.FormatReader()
    try:
        read(reader, json.dumps(value).encode())
    except StreamError:
        return
    assert isinstance(reader.answer.text, str)


def test_a_whole_answer_of_an_openai_server_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "MAX_PENDING_BYTES", 100)
    reader = openai.Events()
    reader.feed(b"{" + b" " * 99, 1.0)
    with pytest.raises(StreamError, match="a JSON value of over"):
        reader.feed(b" ", 2.0)


def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_formats, "MAX_PENDING_BYTES", 100)
    with pytest.raises(StreamError, match="a JSON value of over"):
        read(_formats.FormatReader(), b"{" + b" " * 200)


def test_a_fixed_length_in_the_words_of_the_format() -> None:
    def asked(style: str, ignore_eos: bool) -> dict[str, Any]:
        return _formats.body(style, "hi", 4, model="m", is_streaming=False, ignore_eos=ignore_eos)

    assert asked("prompt", False) == {"prompt": "hi", "max_tokens": 4}
    assert asked("prompt", True) == {"prompt": "hi", "max_tokens": 4, "ignore_eos": True, "min_tokens": 4}
    assert asked("messages", False) == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    assert asked("inputs", True)["parameters"]["ignore_eos_token"] is True
    assert "ignore_eos_token" not in asked("inputs", False)["parameters"]


# --- Azure and Bedrock ------------------------------------------------------------------------------------------------


def test_azure_paths_and_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://name.openai.azure.com/")
    target = azure.target(Asked(None, "gpt"))
    asked = azure.request(target, "hi", 4)
    assert asked.url == "https://name.openai.azure.com/openai/v1/chat/completions"
    assert asked.headers["api-key"] == KEY
    assert "Authorization" not in asked.headers
    assert json.loads(asked.body)["model"] == "gpt"
    assert KEY not in repr(target) + repr(asked)
    old = azure.target(Asked("http://127.0.0.1:1/openai/v1", "gpt", options={"api-version": "2024-10-21"}))
    assert azure.request(old, "hi", 4).url == (
        "http://127.0.0.1:1/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    )
    for bad in ({"api-version": "1&x=y"}, {"api-version": "1", "deployment": ".."}):
        with pytest.raises(ValueError, match="that an address can hold"):
            azure.target(Asked(None, "gpt", options=bad))


def test_azure_and_bedrock_want_a_key_and_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AZURE_OPENAI_API_KEY",
        "AZURE_OPENAI_ENDPOINT",
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="AZURE_OPENAI_ENDPOINT"):
        azure.target(Asked(None, "gpt"))
    with pytest.raises(ValueError, match="AZURE_OPENAI_API_KEY is not set"):
        azure.target(Asked("https://name.openai.azure.com", "gpt"))
    with pytest.raises(ValueError, match="No region is named"):
        bedrock.target(Asked(None, "m"))
    with pytest.raises(ValueError, match="AWS_BEARER_TOKEN_BEDROCK is not set"):
        bedrock.target(Asked(None, "m", options={"region": "us-east-1"}))


def test_bedrock_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", KEY)
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    target = bedrock.target(Asked(None, "openai.gpt-oss-120b-1:0"))
    asked = bedrock.request(target, "hi", 4)
    assert asked.url == "https://bedrock-runtime.us-west-2.amazonaws.com/openai/v1/chat/completions"
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(target) + repr(asked)


def test_every_provider_keeps_the_seam() -> None:
    names = _providers.names()
    assert {"azure", "bedrock", "openai", "sagemaker", "tgi", "vertex"} <= set(names)
    for name in names:
        provider = _providers.find(name)
        assert name == provider.NAME
        assert provider.APIS
