"""Scores beside the speed: what is a right answer, perplexity by hand, a server and a local model of known probabilities; token counts."""

from __future__ import annotations

import contextlib
import doctest
import http.server
import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import broken_server
import pytest
from landed_rows import landed

from collectors import endpoint
from collectors.endpoint import _providers, _quality, _tokens
from collectors.endpoint._providers import Asked
from collectors.endpoint._quality import Question, TextSet
from collectors.endpoint._stream import Reply
from warehouse import parquet

TEXTS = TextSet(
    "mine", (Question("2 + 2?", "4", "number"), Question("Capital of France?", "Paris", "contains")), ("a b c",)
)


def reply(**values: Any) -> Reply:
    """An answer of three chunks at 1, 2 and 4 s whose tokens nobody counted."""
    base: dict[str, Any] = {
        "status": "ok", "status_detail": None, "http_status": 200, "text": "one two three four", "reasoning": "", "scheduled_at_s": 0.0,
        "sent_at_s": 0.0, "ended_at_s": 4.0, "ttft_s": 1.0, "tpot_s": 1.5, "itl_s": None, "e2el_s": 4.0, "input_tokens": None,
        "output_tokens": 3, "token_count_source": "chunks", "finish_reason": "stop", "chunk_times_s": [1.0, 2.0, 4.0], "chunk_tokens": None,
    }  # fmt: skip
    return Reply(**{**base, **values})


# --- right or wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "wanted", "match", "is_right"),
    [
        ("12", "12", "number", True),
        ("7 + 5 = 12.", "12", "number", True),
        ("\n\n1,200 metres\nnot 7", "1200", "number", True),
        ("-3", "3", "number", False),
        ("−3", "-3", "number", True),
        ("12.50", "12.5", "number", True),
        ("twelve", "12", "number", False),
        ("", "12", "number", False),
        ("Pear.", "pear", "exact", True),
        ("a pear", "pear", "exact", False),
        ("pear\nHammer", "pear", "exact", True),
        ("It is **Carbon  Dioxide**!", "carbon dioxide", "contains", True),
        ("carbon monoxide, not dioxide", "carbon dioxide", "contains", False),
        ("shot", "hot", "contains", False),
        ("", "hot", "contains", False),
    ],
)
def test_answers(answer: str, wanted: str, match: str, is_right: bool) -> None:
    assert _quality.is_right(answer, Question("?", wanted, match)) is is_right


def test_perplexity_by_hand() -> None:
    """Two texts of 2 and 4 tokens: -ln p sums to 2 and 1, so 3 over 6 tokens; residuals 2 - 1 and 1 - 2."""
    value, stderr = _quality.perplexity([[-1.0, -1.0], [-0.25] * 4])
    assert value == pytest.approx(math.exp(0.5))
    assert stderr == pytest.approx(math.exp(0.5) * math.sqrt(2 * 2 / 1) / 6)


def test_the_shipped_set_is_answerable_and_its_answers_are_right() -> None:
    texts = _quality.text_set()
    assert texts.task == "rooflake-basics"
    assert 20 <= len(texts.questions) <= 30
    assert all(_quality.is_right(question.answer, question) for question in texts.questions)
    assert len({question.prompt for question in texts.questions}) == len(texts.questions)


def test_scores_are_rows_and_what_failed_is_a_remark() -> None:
    answers = {"2 + 2?": "4", "Capital of France?": "Rome"}
    checked = _quality.check(TEXTS, lambda prompt, _: answers[prompt], lambda text: [math.log(0.25)] * 3)
    rows = checked.rows("run")
    assert [(row["metric"], row["value"], row["num_samples"], row["is_higher_better"]) for row in rows] == [
        ("exact_match", 0.5, 2, True), ("perplexity", pytest.approx(4.0), 1, False),
    ]  # fmt: skip
    assert rows[0]["stderr"] == pytest.approx(0.5)
    assert parquet.check("quality", rows).num_rows == 2
    assert checked.remarks == ()
    nothing = _quality.check(TEXTS, lambda *_: None, lambda _: None)
    assert nothing.scores == ()
    assert nothing.remarks == (
        "Quality: 2 of 2 questions brought no answer.",
        "Quality: no log probabilities of 1 of 1 texts, so no perplexity of them.",
    )


def test_a_set_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "2 + 2?", "answer": "4"}\n\n{"text": "a b c"}\n')
    assert _quality.text_set(file) == TextSet("mine", (Question("2 + 2?", "4", "exact"),), ("a b c",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"mine.jsonl, line 1 is not JSON"),
        ("[]", r"line 1 is neither"),
        ('{"prompt": "a"}', r"line 1 is neither"),
        ('{"prompt": "a", "answer": "b", "match": "near"}', r"match 'near'. Known: exact, contains, number"),
        ('{"prompt": "a", "answer": "b", "match": "number"}', r"wants a number, and its answer is 'b'"),
        ("", r"holds no question and no text"),
    ],
)
def test_a_broken_set_is_refused(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(line)
    with pytest.raises(ValueError, match=message):
        _quality.text_set(file)
    with pytest.raises(ValueError, match=r"gone.jsonl cannot be read"):
        _quality.text_set(tmp_path / "gone.jsonl")


# --- a server ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(answer: Callable[[dict[str, Any]], Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers each body with what a function gives, as JSON in one piece (a number: that HTTP status); what it was sent."""
    bodies: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            found = answer(bodies[-1])
            content = b"{}" if isinstance(found, int) else json.dumps(found).encode()
            self.send_response(found if isinstance(found, int) else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.send_header("location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", bodies
        finally:
            server.shutdown()
            thread.join(10)


def checked(url: str) -> _quality.Checked:
    target = _providers.find("openai").target(Asked(
        url, "m", api="chat", timeout_s=5.0, is_streaming=True, ignore_eos=True, extra_body={"temperature": 1.5, "min_tokens": 9},
        api_key_env=None, options={},
    ))  # fmt: skip

    def send(asked: _providers.Target, prompt: str, most_tokens: int) -> Reply:
        assert not asked.ignore_eos
        return endpoint.complete(
            asked.base_url, asked.model, prompt, output_tokens=most_tokens, extra_body=asked.extra_body
        )

    return _quality.check(TEXTS, *_quality.endpoint(target, send))


def chat(body: dict[str, Any]) -> dict[str, Any]:
    """Right about sums, and nothing else."""
    text = "= 4" if "2 + 2" in body["messages"][0]["content"] else "Rome"
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


ECHOED = {
    "tokens": ["a", " b", " c", " d"],
    "token_logprobs": [None, math.log(0.5), math.log(0.125), -9.0],
    "text_offset": [0, 1, 3, 5],
}
LISTED = [
    None,
    {"7": {"logprob": math.log(0.5), "rank": 1}},
    {"8": {"logprob": math.log(0.125), "rank": 4}, "9": {"logprob": 0.0}},
]


@pytest.mark.parametrize("route", ["echo", "prompt_logprobs"])
def test_a_server_that_repeats_its_prompt_is_scored(route: str) -> None:
    """Probabilities 1/2 and 1/8 of the prompt's second and third token; that of the token made is not of the text."""

    def answer(body: dict[str, Any]) -> Any:
        if "messages" in body:
            return chat(body)
        if route not in body:
            return {"choices": [{"text": " d", "logprobs": {"token_logprobs": [-9.0] * 3, "text_offset": [5, 6, 7]}}]}
        return {"choices": [{"logprobs": ECHOED} if route == "echo" else {"prompt_logprobs": LISTED}]}

    with answering(answer) as (url, bodies):
        found = checked(url)
    assert [(score["metric"], score["value"]) for score in found.scores] == [
        ("exact_match", 0.5),
        ("perplexity", pytest.approx(4.0)),
    ]
    assert found.remarks == ()
    assert {body["temperature"] for body in bodies} == {0}
    assert not any("min_tokens" in body or "ignore_eos" in body for body in bodies)
    assert bodies[-1]["prompt"] == "a b c"


@pytest.mark.parametrize(
    "given",
    [
        400, 302, [], {"choices": []}, {"choices": ["a"]}, {"choices": [{"logprobs": None, "prompt_logprobs": None}]},
        {"choices": [{"logprobs": {"token_logprobs": [None, "x", 1], "text_offset": [0, 1, 2]}}]},
        {"choices": [{"prompt_logprobs": [None, 3, {}]}]}, {"choices": [{"prompt_logprobs": [None, {"1": {"logprob": 5.0}}]}]},
    ],
)  # fmt: skip
def test_a_server_without_probabilities_of_a_prompt_has_no_perplexity(given: Any) -> None:
    with answering(lambda body: chat(body) if "messages" in body else given) as (url, _):
        found = checked(url)
    assert [score["metric"] for score in found.scores] == ["exact_match"]
    assert found.remarks == ("Quality: no log probabilities of 1 of 1 texts, so no perplexity of them.",)


def test_a_thought_cut_off_is_no_answer() -> None:
    message = {"content": "", "reasoning_content": "Let me think"}
    with answering(
        lambda body: {"choices": [{"message": message, "finish_reason": "length"}]} if "messages" in body else 500
    ) as (url, _):
        found = checked(url)
    assert found.scores == ()
    assert found.remarks[0] == "Quality: 2 of 2 questions brought no answer."


# --- a local model and its tokenizer ----------------------------------------------------------------------------------

WORDS = ("<s>", "a", "b", "c", "one", "two", "three", "four")


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_model_that_knows_nothing_has_its_vocabulary_for_a_perplexity(tokenizer_folder: Path, tmp_path: Path) -> None:
    """With a head of zeros every token is as likely as any other."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    llm = LlamaForCausalLM(config)
    with torch.no_grad():
        llm.lm_head.weight.zero_()
    llm.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_folder / "tokenizer.json"), bos_token="<s>", eos_token="<s>"
    ).save_pretrained(tmp_path)
    found = _quality.check(TEXTS, *_quality.local(str(tmp_path)))
    assert {score["metric"]: score["value"] for score in found.scores} == {
        "exact_match": 0.0,
        "perplexity": pytest.approx(len(WORDS)),
    }
    with pytest.raises(LookupError, match="cannot be loaded with transformers"):
        _quality.local(str(tokenizer_folder))


def test_tokens_that_nobody_counted_are_a_tokenizers(tokenizer_folder: Path) -> None:
    ends = _tokens.load(str(tokenizer_folder))
    found = _tokens.recounted(reply(), ends)
    assert (found.output_tokens, found.token_count_source, found.tpot_s, found.chunk_tokens) == (
        4,
        "tokenizer",
        1.0,
        None,
    )
    parted = _tokens.recounted(reply(chunk_texts=["one two", " three", " four"]), ends)
    assert (parted.chunk_tokens, parted.itl_s) == ([2, 1, 1], 1.5)
    hidden = _tokens.recounted(reply(chunk_texts=["one two", " [a key] four"]), ends)
    assert (hidden.output_tokens, hidden.chunk_tokens, hidden.itl_s) == (4, None, None)
    counted = reply(token_count_source="usage")
    assert _tokens.recounted(counted, ends) is counted
    silent = reply(text="")
    assert _tokens.recounted(silent, ends) is silent


def test_a_chunk_that_ends_no_token_leaves_them_unknown() -> None:
    assert _tokens.tokens_of(["a", "b", " c"], [2, 4]) is None
    assert _tokens.tokens_of(["ab", " c"], [2, 4]) == [1, 1]
    assert _tokens.tokens_of([], []) is None


def test_a_server_that_counts_nothing_has_its_chunks_counted(tokenizer_folder: Path, tmp_path: Path) -> None:
    """Over the wire and through a client process: two words, one, and reasoning before them."""
    deltas = [{"reasoning_content": "a b"}, {"content": " one two"}, {"content": " three"}, {"content": ""}]
    chunks = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    with broken_server.serving([broken_server.STREAM, *events, b"data: [DONE]\n\n"]) as server:
        endpoint.collect(
            tmp_path, url=server.url, model="m", prompt="hi", concurrency=1, num_requests=2, warmup=0, self_test=False,
            tokenizer=str(tokenizer_folder),
        )  # fmt: skip
    rows = landed(tmp_path, "requests")
    assert [row["chunk_tokens"] for row in rows] == [[2, 2, 1]] * 2
    assert {(row["output_tokens"], row["token_count_source"]) for row in rows} == {(5, "tokenizer")}
    assert all(row["itl_s"] == pytest.approx((row["e2el_s"] - row["ttft_s"]) / 3) for row in rows)


def test_every_answer_of_an_outcome_is_counted(tokenizer_folder: Path) -> None:
    from collectors.endpoint._load import Outcome

    outcome = Outcome([reply()], [reply(), reply(token_count_source="usage")], remarks=("kept",))
    found = _tokens.counter(str(tokenizer_folder / "tokenizer.json"))(outcome)
    assert [one.token_count_source for one in (*found.warmup, *found.measured)] == ["tokenizer", "tokenizer", "usage"]
    assert found.remarks == ("kept",)
    assert _tokens.counter(None)(outcome) is outcome


def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LookupError, match=r"tokenizer.json is no tokenizer: .*--tokenizer"):
        _tokens.counter(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LookupError, match=r"'no-such/tokenizer' cannot be loaded"):
        _tokens.counter("no-such/tokenizer")


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(_quality).failed == doctest.testmod(_tokens).failed == 0


def test_a_load_with_metrics_and_questions_lands_with_both(tmp_path: Path) -> None:
    """The server is asked the questions, then the load; its metrics are read meanwhile."""
    import metrics_server

    questions = tmp_path / "mine.jsonl"
    questions.write_text(
        '{"prompt": "2 + 2?", "answer": "4", "match": "number"}\n{"prompt": "Capital?", "answer": "Paris"}\n'
    )
    given = {"prompt": "hi", "concurrency": 1, "num_requests": 2, "warmup": 0, "timeout_s": 5.0, "self_test": False}
    with answering(chat) as (url, _), metrics_server.serving(metrics_server.SGLANG) as page:
        endpoint.collect(tmp_path / "landing", url=url, model="m", metrics_url=[page], quality=questions, **given)
    tables = {
        path.parent.name: parquet.read(path.parent.name, path).to_pylist()
        for path in (tmp_path / "landing").rglob("*.parquet")
    }
    (run,) = tables["runs"]
    assert [(row["task"], row["metric"], row["value"]) for row in tables["quality"]] == [("mine", "exact_match", 0.5)]
    assert {row["num_running"] for row in tables["telemetry"]} == {5.0}
    assert {row["run_id"] for row in (*tables["quality"], *tables["telemetry"])} == {run["run_id"]}
    assert "sglang:cache_hit_rate" in {row["metric"] for row in tables["samples"]}
    assert f"--metrics-url {page}" in run["command"]
    assert "--quality" in run["command"]
