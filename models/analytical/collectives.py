"""Collectives among N devices: bytes that one device sends and steps it waits for, as functions of N and the payload.

`payload` is the whole tensor in bytes: what every device holds before a reduce-scatter, an all-reduce or an all-to-all, and
after an all-gather. Payload and N are numbers or arrays over configurations. One device sends nothing.
A collective takes sent / link + hops x latency seconds; a ring is pipelined in N parts, a tree in chunks small enough not to
show. Rings send the least, 2 (N - 1) / N of the payload; trees wait the least, 2 log2 N steps instead of 2 (N - 1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.analytical.inventory import Value


class Traffic(NamedTuple):
    """What one device does for a collective; the names are those of the fields of an Op."""

    sent: Value
    """Bytes over its link."""
    hops: Value
    """Steps one after the other, each with the link's latency."""

    def seconds(self, link: Value, latency: Value) -> Value:
        """Seconds at `link` B/s, one direction, and `latency` seconds a step."""
        return self.sent / link + self.hops * latency


def reduce_scatter(payload: Value, devices: Value) -> Traffic:
    """Ring: every device ends with the sum of its N-th of the payload."""
    return Traffic((devices - 1) / devices * payload, devices - 1)


def all_gather(payload: Value, devices: Value) -> Traffic:
    """Ring: every device starts with an N-th of the payload and ends with all of it."""
    return reduce_scatter(payload, devices)


def all_to_all(payload: Value, devices: Value) -> Traffic:
    """Every device keeps an N-th of its payload and sends an N-th to each other one."""
    return reduce_scatter(payload, devices)


def send_recv(payload: Value) -> Traffic:
    """From one device to one other."""
    return Traffic(payload, 1.0)


def ring_all_reduce(payload: Value, devices: Value) -> Traffic:
    """A reduce-scatter, then an all-gather."""
    return Traffic(2 * (devices - 1) / devices * payload, 2 * (devices - 1))


def tree_all_reduce(payload: Value, devices: Value) -> Traffic:
    """Two binary trees with half of the payload each, up and down; sent by the busiest device.

    A device that is inside one tree (one parent, two children) is a leaf of the other: (1 + 2 + 1) halves. Two devices: one.
    """
    return Traffic(np.minimum(devices - 1, 2.0) * payload, 2 * np.ceil(np.log2(devices)))


def all_reduce(payload: Value, devices: Value, *, link: Value, latency: Value) -> Traffic:
    """The faster of ring and tree on a link of B/s and seconds a step: trees for small payloads among many devices."""
    ring, tree = ring_all_reduce(payload, devices), tree_all_reduce(payload, devices)
    is_tree = tree.seconds(link, latency) < ring.seconds(link, latency)
    return Traffic(np.where(is_tree, tree.sent, ring.sent), np.where(is_tree, tree.hops, ring.hops))


def crossover(devices: Value, *, link: Value, latency: Value) -> Value:
    """Payload in bytes below which a tree is faster than a ring; 0 where a ring always is."""
    one = np.ones_like(np.asarray(devices, np.float64))
    ring, tree = ring_all_reduce(one, devices), tree_all_reduce(one, devices)
    extra, spared = tree.sent - ring.sent, (ring.hops - tree.hops) * latency
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((extra > 0) & (spared > 0), spared * link / extra, 0.0)
