"""A trained predictor: predict with an interval, say why, and keep it all in one file that holds text alone."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from models.learned import explain, subjects
from models.learned.fitted import Answers, Fitted
from models.learned.inputs import Inputs
from models.learned.subjects import devices
from models.learned.targets import Target

FORMAT = 3
"""Version of the artifact; another one is refused."""
MAX_BYTES = 2_000_000
"""Most bytes of an artifact."""
CARD, MODEL = "card.json", "model.json"
_WHEN = (1980, 1, 1, 0, 0, 0)
"""Date of every member, so that the same predictor is the same file."""


class OtherFeaturesError(ValueError):
    """An artifact that learnt from other features than this version makes of rows."""


@dataclass(frozen=True)
class Predictor:
    """A trained artifact. `target` is a key of `subjects.TARGETS`, `method` its method in words, `num_rows` the rows it learnt from.

    card: what a reader of the file alone sees: `features` and `terms`, `splits` and `scores` (split -> contender -> scores, coverage
    included), `worst_folds`, `sources`, `notes`, `libraries`, `importances`, `held_out` (predicted and actual of at most 2,000 rows).
    """

    predictor_id: str
    target: str
    metric: str
    unit: str
    method: str
    snapshot_id: int | None
    trained_at: str
    num_rows: int
    llm_ids: tuple[str, ...]
    hardware_ids: tuple[str, ...]
    card: Mapping[str, Any]
    fitted: Fitted

    @property
    def file_name(self) -> str:
        return f"{self.predictor_id}.zip"

    @property
    def subject(self) -> Target:
        return subjects.find(self.target)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the rows it learnt from."""
        return tuple(self.card["notes"])

    def inputs(self, rows: pa.Table) -> Inputs:
        """Inputs of rows like those of the target's query, completed by the catalogue's devices where they lack them (lakes with
        devices of their own pass theirs through `devices.with_devices` first). Raises ValueError where the features are others
        than those learnt from, or a column is missing."""
        inputs = self.subject.inputs(devices.with_devices(rows))
        if list(inputs.feature_names) != self.card["features"] or list(inputs.term_names) != self.card["terms"]:
            ours, known = {*self.card["features"], *self.card["terms"]}, {*inputs.feature_names, *inputs.term_names}
            raise OtherFeaturesError(
                f"'{self.file_name}' learnt from other features of {self.target}: "
                f"{', '.join(sorted(ours ^ known)) or 'the same in another order'}. Train it again with `rooflake train`."
            )
        return inputs

    def predict(self, rows: pa.Table) -> Answers:
        """Predict n rows, in the unit of the target."""
        return self.fitted.predict(self.inputs(rows))

    def reasons(self, rows: pa.Table, row: int) -> list[str]:
        """Sentences that say why one row has no value, no interval, or a wider one; empty where it is like those learnt from."""
        one = devices.with_devices(rows.slice(row, 1))
        inputs = self.inputs(one)
        if inputs.is_complete[0]:
            return self.fitted.support.reasons(inputs, 0)
        return [explain.incomplete(one, inputs)]

    def explain(self, rows: pa.Table, row: int) -> pa.Table:
        """How the value of one row comes about, a step a row: `explain.breakdown`."""
        return explain.breakdown(self.fitted, self.inputs(rows.slice(row, 1)))

    def save(self, path: Path) -> Path:
        """Write the artifact whole or not at all; a folder gets `<predictor_id>.zip`. Returns the file's path.

        Raises ValueError where it would be larger than MAX_BYTES.
        """
        path = path / self.file_name if path.is_dir() else path
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
                for name, text in self._members().items():
                    file.writestr(zipfile.ZipInfo(name, _WHEN), text, zipfile.ZIP_DEFLATED, 9)
            if (size := temporary.stat().st_size) > MAX_BYTES:
                raise ValueError(
                    f"{self.target}: the artifact would be {size:,} bytes, more than {MAX_BYTES:,}. "
                    "Use fewer or smaller trees (models/learned/residuals.py), or fewer variants in the target's recipe."
                )
            return temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _members(self) -> dict[str, str]:
        trees: dict[str, str] = {}
        model = _outside(self.fitted.to_dict(), trees)
        names = ("predictor_id", "target", "metric", "unit", "method", "snapshot_id", "trained_at", "num_rows")
        card = {"format": FORMAT} | {name: getattr(self, name) for name in names}
        card |= {"llm_ids": list(self.llm_ids), "hardware_ids": list(self.hardware_ids), "card": dict(self.card)}
        return {
            CARD: json.dumps(card, indent=1, allow_nan=False),
            MODEL: json.dumps(model, allow_nan=False),
            **trees,
        }

    @classmethod
    def load(cls, path: Path) -> Predictor:
        """Read an artifact. Raises FileNotFoundError, or ValueError naming the file for one of another version or none at all."""
        again = "Train it again with `rooflake train`."
        try:
            with zipfile.ZipFile(path) as file:
                members = {name: file.read(name).decode() for name in file.namelist()}
            card, model = json.loads(members[CARD]), json.loads(members[MODEL])
        except (zipfile.BadZipFile, zlib.error, KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"'{path.name}' is no predictor ({error}). {again}") from None
        if not isinstance(card, dict):
            raise ValueError(f"'{path.name}' is no predictor ({CARD} holds no object). {again}")
        if card.get("format") != FORMAT:
            raise ValueError(
                f"'{path.name}' is a predictor of format {card.get('format')}; this version reads format {FORMAT}. {again}"
            )
        if card.get("target") not in subjects.TARGETS:
            raise ValueError(
                f"'{path.name}' predicts '{card.get('target')}', which this version does not know. "
                f"Known: {', '.join(subjects.TARGETS)}. {again}"
            )
        card.pop("format")
        try:
            card |= {name: tuple(card[name]) for name in ("llm_ids", "hardware_ids")}
            return cls(**card, fitted=Fitted.from_dict(_inside(model, members)))
        except (KeyError, TypeError) as error:
            raise ValueError(f"'{path.name}' lacks {error}. {again}") from None


def load_all(
    folder: Path, rows: Iterable[Mapping[str, Any]], report: Callable[[str], None] = lambda line: None
) -> dict[str, Predictor]:
    """Predictors by target: of rows with `target` and `artifact` (query `promoted_predictors`) those whose file is in a folder.

    One that is missing or of another version is left out, with a sentence. A file is read again when it changes.
    """
    found = {}
    for row in rows:
        path = folder / str(row["artifact"])
        try:
            found[str(row["target"])] = _loaded(path, path.stat().st_mtime_ns)
        except FileNotFoundError:
            report(f"{row['target']}: '{path.name}' is not in '{folder}'. Copy it there, or run `rooflake train`.")
        except ValueError as error:
            report(f"{row['target']}: {error}")
    return found


@lru_cache(maxsize=64)
def _loaded(path: Path, _: int) -> Predictor:
    return Predictor.load(path)


def _outside(data: Any, trees: dict[str, str]) -> Any:
    """The same data with the text of every tree ensemble moved to a member of its own."""
    if isinstance(data, Mapping):
        if data.get("kind") == "trees":
            name = f"trees_{len(trees)}.txt"
            trees[name] = data["text"]
            return {**data, "text": name}
        return {key: _outside(value, trees) for key, value in data.items()}
    return [_outside(one, trees) for one in data] if isinstance(data, list) else data


def _inside(data: Any, members: Mapping[str, str]) -> Any:
    """The inverse of `_outside`."""
    if isinstance(data, Mapping):
        if data.get("kind") == "trees":
            return {**data, "text": members[data["text"]]}
        return {key: _inside(value, members) for key, value in data.items()}
    return [_inside(one, members) for one in data] if isinstance(data, list) else data
