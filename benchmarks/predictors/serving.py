"""Served loads: the silicon sample of aiconfigurator on H100, H200 and B200 under vLLM, SGLang and TensorRT-LLM.

Median errors, as the goals are. The sample says neither whether tokens were guessed ahead nor which lengths requests had: equal
configurations differ. Throughput is that of Little's law: its error is that of the time of a request.
"""

from __future__ import annotations

from benchmarks.predictors.board import Board, Goal

SILICON = {"source": "aiconfigurator", "disaggregated": False}
APART = {"source": "aiconfigurator", "disaggregated": True}
_GOALS = {
    ("served_tpot", "leave_device_out"): 0.10,
    ("served_ttft", "leave_device_out"): 0.20,
    ("served_tpot", "leave_family_out"): 0.15,
    ("served_ttft", "leave_family_out"): 0.25,
}
_NAMES = {"served_tpot": "TPOT", "served_ttft": "TTFT", "served_request": "time of a request (throughput)"}
_SPLITS = {
    "leave_device_out": "device never seen",
    "leave_family_out": "family of LLMs never seen",
    "leave_generation_out": "generation of devices never seen",
    "random": "random rows",
}


def _board(target: str, split: str) -> Board:
    most = _GOALS.get((target, split))
    return Board(
        f"silicon-{target.removeprefix('served_')}-{split.removeprefix('leave_').removesuffix('_out')}",
        f"Silicon sample, {_NAMES[target]}, {_SPLITS[split]}",
        target,
        split,
        () if most is None else (Goal("mdape", most=most),),
        SILICON,
    )


BOARDS = (
    *(_board(target, split) for target in _NAMES for split in _SPLITS),
    *(
        Board(
            f"silicon-{target.removeprefix('served_')}-apart",
            f"Silicon sample, {name}, prompts on devices of their own",
            target,
            "random",
            (),
            APART,
        )
        for target, name in _NAMES.items()
    ),
)
