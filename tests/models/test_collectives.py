"""Collectives: bytes and steps as published, checked against a simulated ring and against closed forms by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.analytical import collectives

LINK, LATENCY = 200e9, 5e-6


def parts_after(steps: int, devices: int) -> list[set[int]]:
    """Parts that every device of a ring holds after `steps` steps, in each of which it passes one part on."""
    held = [{device} for device in range(devices)]
    for step in range(steps):
        for device in range(devices):
            part = (device - step) % devices
            assert part in held[device]
            held[(device + 1) % devices].add(part)
    return held


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_a_ring_all_gather_takes_the_steps_of_a_simulated_ring(devices: int) -> None:
    traffic = collectives.all_gather(1.0, devices)
    steps = int(np.asarray(traffic.hops))
    assert all(mine == set(range(devices)) for mine in parts_after(steps, devices))
    assert not any(mine == set(range(devices)) for mine in parts_after(steps - 1, devices))
    assert traffic.sent == pytest.approx(steps / devices), "an N-th of the payload a step"


@given(devices=st.integers(1, 4096), payload=st.floats(0, 1e12))
def test_a_ring_all_reduce_is_a_reduce_scatter_and_an_all_gather(devices: int, payload: float) -> None:
    whole = collectives.ring_all_reduce(payload, devices)
    halves = collectives.reduce_scatter(payload, devices), collectives.all_gather(payload, devices)
    assert whole.sent == pytest.approx(2 * (devices - 1) / devices * payload)
    assert whole.sent == pytest.approx(halves[0].sent + halves[1].sent)
    assert whole.hops == halves[0].hops + halves[1].hops == 2 * (devices - 1)


def test_one_device_sends_nothing() -> None:
    for collective in (
        collectives.reduce_scatter, collectives.all_gather, collectives.all_to_all, collectives.ring_all_reduce,
        collectives.tree_all_reduce,
    ):  # fmt: skip
        assert collective(1e9, 1.0) == (0, 0)


def test_a_tree_waits_for_fewer_steps_and_sends_more() -> None:
    devices = np.array([2.0, 4.0, 8.0, 64.0, 100.0])
    ring, tree = collectives.ring_all_reduce(1.0, devices), collectives.tree_all_reduce(1.0, devices)
    assert np.array_equal(tree.hops, [2, 4, 6, 12, 14])
    assert np.array_equal(ring.hops, [2, 6, 14, 126, 198])
    assert np.array_equal(tree.sent, [1, 2, 2, 2, 2])
    assert np.all(tree.sent >= ring.sent)


@pytest.mark.parametrize("devices", [4, 8, 64])
def test_trees_win_below_the_crossover_and_rings_above(devices: int) -> None:
    payload = collectives.crossover(float(devices), link=LINK, latency=LATENCY)
    # by hand: 2 P / N more bytes against 2 (N - 1) - 2 log2 N fewer steps
    assert payload == pytest.approx((devices - 1 - np.log2(devices)) * LATENCY * LINK * devices)
    ring = collectives.ring_all_reduce(payload, devices)
    tree = collectives.tree_all_reduce(payload, devices)
    assert tree.seconds(LINK, LATENCY) == pytest.approx(ring.seconds(LINK, LATENCY))
    chosen = collectives.all_reduce(np.array([payload / 2, payload * 2]), float(devices), link=LINK, latency=LATENCY)
    assert np.array_equal(chosen.hops, np.array([tree.hops, ring.hops]))


def test_two_devices_have_no_crossover() -> None:
    assert collectives.crossover(2.0, link=LINK, latency=LATENCY) == 0
    assert collectives.crossover(1.0, link=LINK, latency=LATENCY) == 0


@given(devices=st.integers(1, 1024), payload=st.floats(1, 1e12), link=st.floats(1e9, 1e12), latency=st.floats(0, 1e-3))
def test_the_chosen_all_reduce_is_never_slower_than_either(
    devices: int, payload: float, link: float, latency: float
) -> None:
    chosen = collectives.all_reduce(payload, devices, link=link, latency=latency)
    others = collectives.ring_all_reduce(payload, devices), collectives.tree_all_reduce(payload, devices)
    assert chosen.seconds(link, latency) == min(other.seconds(link, latency) for other in others)
