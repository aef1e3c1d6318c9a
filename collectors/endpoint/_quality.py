"""Is a server right as well as fast: a small set of questions and texts, asked of it (or of a local model) beside the load.

Questions give `exact_match`, the share answered right; texts give `perplexity` over their tokens, where log probabilities of a prompt
are to be had. Nothing is sampled. What a score is worth is not judged here: it stands beside the speed, and its standard error says how
far so few items can tell.
"""

from __future__ import annotations

import json
import math
import re
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from collectors.endpoint import _providers
from collectors.endpoint._providers import Target
from collectors.endpoint._stream import Reply

SHIPPED = Path(__file__).with_name("quality.jsonl")
SHIPPED_TASK = "rooflake-basics"
ANSWER_TOKENS = 64
MATCHES = ("exact", "contains", "number")
MAX_BODY_BYTES = 2**26

OPENAI_LIKE = ("openai", "azure", "bedrock")
"""Providers whose requests take OpenAI's fields."""

Ask: TypeAlias = Callable[[str, int], str | None]
"""(prompt, most tokens) -> answer; None where there was none."""

Logprobs: TypeAlias = Callable[[str], "list[float] | None"]
"""Text -> natural logarithms of the probabilities of its tokens after the first; None where they are not to be had."""


@dataclass(frozen=True)
class Question:
    """`match` says when an answer is right: `exact` (its first line, but for case and punctuation), `contains` (the words anywhere),
    `number` (the last number of its first line)."""

    prompt: str
    answer: str
    match: str


@dataclass(frozen=True)
class TextSet:
    """What is asked. `task` names it in `quality`."""

    task: str
    questions: tuple[Question, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """Scores, as columns of `quality` but for the run, and sentences on what could not be scored."""

    scores: tuple[dict[str, Any], ...]
    remarks: tuple[str, ...]

    def rows(self, run_id: str) -> list[dict[str, Any]]:
        """Rows of `quality` of a run."""
        return [{"run_id": run_id, **score} for score in self.scores]


NOTHING = Checked((), ())


def text_set(path: Path | None = None) -> TextSet:
    """The set in a file of JSON lines, `{"prompt", "answer"[, "match"]}` or `{"text"}`; the shipped one without a file.

    Raises ValueError naming the line that is neither.
    """
    file = SHIPPED if path is None else path
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} cannot be read as text: {error}. Set it with --quality.") from None
    items = [_item(line, f"{file.name}, line {number}") for number, line in enumerate(lines, 1)]
    questions = tuple(item for item in items if isinstance(item, Question))
    texts = tuple(item for item in items if isinstance(item, str))
    if not items:
        raise ValueError(f"{file.name} holds no question and no text. Set it with --quality.")
    return TextSet(SHIPPED_TASK if path is None else path.stem, questions, texts)


def check(texts: TextSet, ask: Ask, logprobs: Logprobs) -> Checked:
    """Ask every question and score every text, one after the other."""
    scores, remarks = [], []
    answers = [(question, ask(question.prompt, ANSWER_TOKENS)) for question in texts.questions]
    marks = [is_right(answer, question) for question, answer in answers if answer is not None]
    if marks:
        scores.append(_score(texts.task, "exact_match", *_share(marks), True, len(marks)))
    if len(marks) < len(answers):
        remarks.append(f"Quality: {len(answers) - len(marks)} of {len(answers)} questions brought no answer.")
    found = [found for text in texts.texts if (found := logprobs(text))]
    if found:
        scores.append(_score(texts.task, "perplexity", *perplexity(found), False, len(found)))
    if len(found) < len(texts.texts):
        missing = len(texts.texts) - len(found)
        remarks.append(
            f"Quality: no log probabilities of {missing} of {len(texts.texts)} texts, so no perplexity of them."
        )
    return Checked(tuple(scores), tuple(remarks))


def endpoint(target: Target, send: Callable[[Target, str, int], Reply]) -> tuple[Ask, Logprobs]:
    """How to ask a server: greedily, and to the natural end. `send` sends one prompt and waits for its reply."""
    greedy = _greedy(target)

    def ask(prompt: str, most_tokens: int) -> str | None:
        reply = send(greedy, prompt, most_tokens)
        is_cut_in_thought = bool(reply.reasoning) and not reply.text.strip()
        return None if reply.status != "ok" or is_cut_in_thought else reply.text

    def logprobs(text: str) -> list[float] | None:
        if target.provider not in OPENAI_LIKE or "completions" not in _providers.find(target.provider).APIS:
            return None
        for fields in ({"echo": True, "logprobs": 1}, {"prompt_logprobs": 0}):
            choice = _choice(replace(greedy, api="completions", is_streaming=False), text, fields)
            if found := _echoed(choice.get("logprobs"), text) or _listed(choice.get("prompt_logprobs")):
                return found
        return None

    return ask, logprobs


def local(folder: str) -> tuple[Ask, Logprobs]:
    """How to ask a checkpoint on this machine, with transformers, in its own dtype. Raises LookupError where it cannot be loaded."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    except Exception as error:  # transformers raises what its parts raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise LookupError(f"The model '{folder}' cannot be loaded with transformers: {said}") from None

    def ask(prompt: str, most_tokens: int) -> str | None:
        text = prompt
        if tokenizer.chat_template is not None:
            said = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=tokenizer.chat_template is None)
        ids = inputs["input_ids"]
        with torch.inference_mode():
            made = model.generate(
                ids, attention_mask=inputs["attention_mask"], max_new_tokens=most_tokens, do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))

    def logprobs(text: str) -> list[float] | None:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            scores = torch.log_softmax(model(ids).logits[0, :-1].float(), dim=-1)
        return [float(value) for value in scores.gather(1, ids[0, 1:, None])[:, 0]]

    return ask, logprobs


def is_right(answer: str, question: Question) -> bool:
    """Whether an answer is the one wanted.

    >>> is_right("It is **Paris**.", Question("", "Paris", "contains"))
    True
    >>> is_right("7 + 5 = 12", Question("", "12", "number"))
    True
    """
    first = next((line for line in answer.splitlines() if line.strip()), "")
    if question.match == "number":
        numbers = re.findall(r"[-−]?\d[\d,]*(?:\.\d+)?", first)
        return bool(numbers) and _number(numbers[-1]) == _number(question.answer)
    wanted, words = _words(question.answer), _words(first if question.match == "exact" else answer)
    if question.match == "exact":
        return words == wanted
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


def perplexity(logprobs: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """exp of the mean negative logarithm over all tokens, and its standard error over texts (ratio of means, delta method); None for
    one text.

    >>> perplexity([[math.log(0.5)] * 4])
    (2.0, None)
    """
    totals = -np.array([sum(one) for one in logprobs])
    counts = np.array([len(one) for one in logprobs], float)
    rate = float(totals.sum() / counts.sum())
    value = math.exp(min(rate, 700.0))
    if len(counts) < 2:
        return value, None
    spread = float(np.sum((totals - rate * counts) ** 2)) * len(counts) / (len(counts) - 1)
    return value, value * math.sqrt(spread) / float(counts.sum())


def _item(line: str, where: str) -> Question | str:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}.") from None
    if isinstance(item, dict) and isinstance(item.get("text"), str) and item["text"].strip():
        return str(item["text"])
    asked = [item.get(name) for name in ("prompt", "answer")] if isinstance(item, dict) else [None]
    if not all(isinstance(one, str) and one.strip() for one in asked):
        raise ValueError(f'{where} is neither {{"prompt": ..., "answer": ...}} nor {{"text": ...}}.')
    match = item.get("match", "exact")
    if match not in MATCHES:
        raise ValueError(f"{where} asks for the match {match!r}. Known: {', '.join(MATCHES)}.")
    if match == "number" and _number(item["answer"]) is None:
        raise ValueError(f"{where} wants a number, and its answer is {item['answer']!r}.")
    return Question(item["prompt"], item["answer"], match)


def _score(
    task: str, metric: str, value: float, stderr: float | None, is_higher_better: bool, num_samples: int
) -> dict[str, Any]:
    return {
        "task": task, "metric": metric, "value": value, "stderr": stderr, "is_higher_better": is_higher_better,
        "num_samples": num_samples, "num_fewshot": 0,
    }  # fmt: skip


def _share(marks: Sequence[bool]) -> tuple[float, float | None]:
    """Mean of the marks and its standard error; None for one mark."""
    mean = sum(marks) / len(marks)
    return mean, math.sqrt(mean * (1 - mean) / (len(marks) - 1)) if len(marks) > 1 else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _number(text: str) -> float | None:
    try:
        return float(text.strip().replace(",", "").replace("−", "-"))
    except ValueError:
        return None


def _greedy(target: Target) -> Target:
    fields = {name: value for name, value in target.extra_body.items() if name not in ("ignore_eos", "min_tokens")}
    if target.provider in OPENAI_LIKE:
        fields["temperature"] = 0
    return replace(target, ignore_eos=False, extra_body=fields)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key must not reach another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _choice(target: Target, text: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The first choice of one answer in one piece; empty where the server refuses or answers otherwise. Never timed."""
    asked = replace(target, extra_body={**target.extra_body, **fields})
    request = _providers.find(target.provider).request(asked, text, 1)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    posted = urllib.request.Request(request.url, request.body, dict(request.headers), method=request.method)  # noqa: S310
    try:
        with opener.open(posted, timeout=target.timeout_s) as response:
            choice = json.loads(response.read(MAX_BODY_BYTES))["choices"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        return {}
    return choice if isinstance(choice, dict) else {}


def _echoed(logprobs: Any, text: str) -> list[float] | None:
    """Of an answer that repeats the prompt: those of the prompt's tokens, the generated one left out."""
    if not isinstance(logprobs, dict):
        return None
    values, offsets = logprobs.get("token_logprobs"), logprobs.get("text_offset")
    if not isinstance(values, list) or not isinstance(offsets, list) or len(values) != len(offsets) or len(values) < 3:
        return None
    if offsets[0] != 0:  # the answer alone: the server does not repeat
        return None
    return _numbers([value for value, offset in zip(values, offsets, strict=True) if offset < len(text)][1:])


def _listed(logprobs: Any) -> list[float] | None:
    """vLLM's own list: for each token of the prompt an object with that token's entry first, null for the first token."""
    if not isinstance(logprobs, list):
        return None
    first = [next(iter(entry.values()), None) if isinstance(entry, dict) else None for entry in logprobs[1:]]
    return _numbers([entry.get("logprob") if isinstance(entry, dict) else None for entry in first])


def _numbers(values: Sequence[Any]) -> list[float] | None:
    """The values, where every one is a number that a logarithm of a probability can be."""
    is_known = all(isinstance(value, int | float) and math.isfinite(value) and value <= 1e-6 for value in values)
    return [float(value) for value in values] if values and is_known else None
