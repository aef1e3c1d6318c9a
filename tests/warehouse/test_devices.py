"""Devices and prices: possible, ordered, complete, and equal to what two other catalogues say, or different for a stated reason."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from warehouse import catalog

HARDWARE = catalog.hardware()
PRICES = catalog.rows("prices")
MATRIX = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4", "int4")
GIB = 2.0**30

# Memory in bytes, memory bandwidth in B/s and power in W that devices of a kind have had since 2016.
PLAUSIBLE = {
    "gpu": ((8 * GIB, 300 * GIB), (60e9, 8.1e12), (50, 1500)),
    "tpu": ((8 * GIB, 200 * GIB), (600e9, 7.5e12), (150, 1500)),
    "accelerator": ((32 * GIB, 150 * GIB), (500e9, 5e12), (100, 1000)),
    "cpu": ((0, 0), (80e9, 1e12), (65, 520)),
}
NEURON = {"trainium", "trainium2", "trainium3", "inferentia2"}
"""tf32 at the 16-bit rate, as AWS states it."""
INTEGERS_CUT = {"b300", "gb300"}
"""Blackwell Ultra gave its integer units away."""


def half_peak(device: catalog.Hardware) -> float | None:
    """Matrix rate at 16 bits, or None."""
    bf16 = device.peak("bf16")
    return device.peak("fp16") if bf16 is None else bf16


def test_the_field_is_covered() -> None:
    assert len(HARDWARE) >= 75
    vendors = {device.row["vendor"] for device in HARDWARE.values()}
    assert vendors == {"NVIDIA", "AMD", "Intel", "Google", "AWS", "Apple", "Qualcomm", "SambaNova"}
    asked = {
        "p100-sxm-16gb", "v100-sxm-32gb", "t4", "a2", "a100-sxm-80gb", "l20", "h100-sxm", "h100-nvl", "h20", "h200", "h200-nvl", "b200",
        "b300", "gb200", "gb300", "mi100", "mi250x", "mi300a", "mi300x", "mi325x", "mi350x", "mi355x", "gaudi2", "gaudi3", "max-1550",
        "max-1100", "arc-pro-b60", "tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v7", "trainium", "trainium2", "inferentia2",
        "apple-m1-ultra", "apple-m2-max", "grace", "graviton4", "epyc-9654", "epyc-9755", "xeon-platinum-8480", "xeon-6980p",
    }  # fmt: skip
    assert asked <= set(HARDWARE)


@pytest.mark.parametrize("hardware_id", HARDWARE)
def test_sizes_are_plausible_for_the_kind(hardware_id: str) -> None:
    device = HARDWARE[hardware_id]
    memory, bandwidth, power = PLAUSIBLE[device.kind]
    if device.kind == "cpu":
        assert device.memory_bytes is None, "main memory is a choice of the machine"
    else:
        assert device.memory_bytes is not None
        assert memory[0] <= device.memory_bytes <= memory[1]
    assert bandwidth[0] <= device.memory_bandwidth_bytes_per_s <= bandwidth[1]
    assert device.tdp_w is None or power[0] <= device.tdp_w <= power[1]
    for name, value in device.row.items():
        assert value is not None, name
        assert isinstance(value, str) or value > 0, f"{name}: absent is left out, never 0"


@pytest.mark.parametrize("hardware_id", HARDWARE)
def test_ridge_and_efficiency_are_within_physics(hardware_id: str) -> None:
    device = HARDWARE[hardware_id]
    best = max(device.peak(dtype) or 0.0 for dtype in ("fp32", "fp16", "bf16"))
    assert 10 < best / device.memory_bandwidth_bytes_per_s < 700, "FLOP per byte at the ridge of 16 or 32 bits"
    if device.tdp_w is not None:
        assert best / device.tdp_w < 3e12, "no device does 3 dense 16-bit TFLOP/s a watt"
    vector = device.vector_fp32_flops_per_s
    assert vector is None or 1 < vector / device.memory_bandwidth_bytes_per_s < 150


@pytest.mark.parametrize("hardware_id", HARDWARE)
def test_peaks_are_ordered_and_dense(hardware_id: str) -> None:
    device = HARDWARE[hardware_id]
    peaks = {dtype: device.peak(dtype) for dtype in MATRIX}
    assert set(device.peaks) <= set(MATRIX)
    half = half_peak(device)
    if half is None:
        return

    def between(dtype: str, low: float, high: float) -> None:
        peak = peaks[dtype]
        assert peak is None or 0.98 * low * half <= peak <= 1.02 * high * half, f"{dtype} against 16 bits"

    if device.row["vendor"] == "NVIDIA" and device.row["architecture"] in ("ampere", "ada", "hopper", "blackwell"):
        assert peaks["fp16"] == peaks["bf16"] is not None
    between("tf32", 0.2, 1.0 if hardware_id in NEURON else 0.5)
    between("fp32", 0.0, 0.5 if device.row["vendor"] != "Apple" else 1.0)
    between("fp8", 1.0, 4.0)
    between("fp4", 2.0, 8.0)
    if hardware_id not in INTEGERS_CUT:
        between("int8", 1.0, 4.0)
        between("int4", 1.0, 8.0)
    if peaks["fp8"] is not None and peaks["fp4"] is not None:
        assert peaks["fp4"] >= peaks["fp8"]


@pytest.mark.parametrize("hardware_id", HARDWARE)
def test_links_are_one_direction_and_have_an_extent(hardware_id: str) -> None:
    row = HARDWARE[hardware_id].row
    link, host, network = (
        row.get(f"{name}_bandwidth_bytes_per_s") for name in ("link", "host_link", "network")
    )  # fmt: skip
    for rate in (link, host, network):
        assert rate is None or 1e9 <= rate <= 2e12
    assert link is None or link < row["memory_bandwidth_bytes_per_s"]
    if row.get("linked_devices") is not None:
        assert link is not None, "an extent of no link"
        assert 2 <= row["linked_devices"] <= 10_000
    if network is not None and link is not None:
        assert network < link, "the network is the slower one"
    if row["vendor"] == "NVIDIA" and host is not None:
        assert host in (16e9, 32e9, 64e9, 128e9, 450e9), (
            "PCIe of 3 to 6 with 8 or 16 lanes, or NVLink-C2C, one direction"
        )


def test_every_linked_gpu_says_how_far_its_link_reaches() -> None:
    silent = {
        key
        for key, device in HARDWARE.items()
        if device.row.get("link_bandwidth_bytes_per_s") and not device.row.get("linked_devices")
    }
    assert silent == {"trainium3"}, "AWS documents two extents"


def test_aliases_mean_one_device() -> None:
    meanings: dict[str, str] = {}
    for key, entry in catalog._entries("hardware.toml").items():
        for alias in {key, entry["name"], *entry.get("aliases", ())}:
            plain = catalog._plain(alias)
            assert meanings.setdefault(plain, key) == key, f"'{alias}' is {meanings[plain]} and {key}"


def test_peaks_are_what_units_and_clock_give() -> None:
    """Dense 16-bit FLOP a clock and core (fp32 accumulate): a sparse figure or a wrong count would be off by far more."""
    per_core = {
        "a2": 1024, "rtx-a5000": 1024, "rtx-a4000": 1024, "rtx-3070": 512, "rtx-3080-ti": 512, "rtx-3090-ti": 512, "l20": 512,
        "rtx-4070-ti": 512, "rtx-4080": 512, "rtx-5080": 512, "mi300a": 2048, "mi300x": 2048, "mi325x": 2048, "mi350x": 4096,
        "mi355x": 4096, "rx-7900-xtx": 512, "max-1550": 4096, "max-1100": 4096, "arc-pro-b60": 2048, "arc-b580": 2048,
        "apple-m1": 256, "apple-m1-ultra": 256, "apple-m2-ultra": 256, "epyc-9755": 128, "xeon-platinum-8480": 1024,
        "xeon-6980p": 1024, "graviton4": 128,
    }  # fmt: skip
    for hardware_id, flops in per_core.items():
        device = HARDWARE[hardware_id]
        assert half_peak(device) == pytest.approx(device.row["num_cores"] * flops * device.row["clock_hz"], rel=0.02), (
            hardware_id
        )


# -- against aiconfigurator (systems/*.yaml) and LLM-Viewer

SYSTEMS = {
    "a100_sxm": "a100-sxm-80gb", "a100_pcie": "a100-pcie-80gb", "a30": "a30", "b200_sxm": "b200", "b300_sxm": "b300", "b60": "arc-pro-b60",
    "gb200": "gb200", "gb300": "gb300", "h100_sxm": "h100-sxm", "h100_pcie": "h100-pcie", "h200_sxm": "h200", "l4": "l4", "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000-server",
}  # fmt: skip
COLUMNS = {
    "mem_bw": "memory_bandwidth_bytes_per_s",
    "mem_capacity": "memory_bytes",
    "float32_tc_flops": "peak_fp32_flops_per_s",
    "bfloat16_tc_flops": "peak_bf16_flops_per_s",
    "int8_tc_flops": "peak_int8_flops_per_s",
    "fp8_tc_flops": "peak_fp8_flops_per_s",
    "fp4_tc_flops": "peak_fp4_flops_per_s",
    "power": "tdp_w",
    "pcie_bw": "host_link_bandwidth_bytes_per_s",
    "intra_node_bw": "link_bandwidth_bytes_per_s",
}
DIFFERENT = {
    (
        "rtx_pro_6000_server",
        "mem_bw",
    ): "the Server Edition's data sheet has 1597 GB/s; 1792 GB/s is the Workstation Edition's",
    ("l40s", "mem_capacity"): "theirs is what the driver leaves of 48 GiB with ECC",
    ("b60", "fp8_tc_flops"): "no fp8 matrix units; theirs is the bf16 rate to fall back on, as their comment says",
    ("b200_sxm", "pcie_bw"): "HGX B200 has PCIe 5.0; theirs assumes 6.0",
    ("gb200", "pcie_bw"): "the host link is NVLink-C2C; theirs is the PCIe port",
    ("gb300", "pcie_bw"): "the host link is NVLink-C2C; theirs is the PCIe port",
    ("a100_pcie", "intra_node_bw"): "theirs is PCIe, without the NVLink bridge between two cards",
    ("a30", "intra_node_bw"): "theirs is PCIe, without the NVLink bridge between two cards",
    ("h100_pcie", "intra_node_bw"): "theirs is PCIe, without the NVLink bridge between two cards",
}
"""(system, field) -> why the catalogue says otherwise. Every line must still be needed."""


def system(shared: Path, name: str) -> dict[str, float]:
    text = (shared / "data" / "aiconfigurator" / "systems" / f"{name}.yaml").read_text(encoding="utf-8")
    return {key: float(value) for key, value in re.findall(r"^  (\w+): (\d+)", text, re.MULTILINE)}


def test_every_system_of_aiconfigurator_is_compared(shared: Path) -> None:
    assert {path.stem for path in (shared / "data" / "aiconfigurator" / "systems").glob("*.yaml")} == set(SYSTEMS)


@pytest.mark.parametrize("name", SYSTEMS)
def test_devices_agree_with_aiconfigurator_or_say_why(name: str, shared: Path) -> None:
    theirs, row = system(shared, name), HARDWARE[SYSTEMS[name]].row
    compared = 0
    for field, column in COLUMNS.items():
        ours = row.get(column)
        if field not in theirs or (field == "intra_node_bw" and ours is None):
            continue  # without a link of its own a device talks over its host link
        agree = ours is not None and abs(ours - theirs[field]) <= 0.02 * theirs[field]
        assert agree != ((name, field) in DIFFERENT), (field, ours, theirs[field])
        compared += 1
    assert compared >= 6


@pytest.mark.parametrize(
    "name", [name for name in SYSTEMS if name not in ("b60", "a30", "a100_pcie", "h100_pcie", "l4", "l40s")]
)
def test_network_agrees_with_aiconfigurator_or_is_the_reference_systems(name: str, shared: Path) -> None:
    """They assume a fabric; the catalogue has the DGX's. B200 and GB200: 400 Gbit/s a GPU in DGX, 800 assumed by them."""
    theirs = system(shared, name)
    network = HARDWARE[SYSTEMS[name]].row.get("network_bandwidth_bytes_per_s")
    if name == "rtx_pro_6000_server":
        assert network is None, "no reference system; theirs is a placeholder, as their comment says"
        return
    expected = theirs.get("inter_rack_bw", theirs["inter_node_bw"])
    assert network == (expected / 2 if name in ("b200_sxm", "gb200") else expected)


LLM_VIEWER = {
    ("nvidia_V100", "fp16"): "theirs is the PCIe card's 112; the name is read as SXM2",
    ("nvidia_V100", "int8"): "tensor cores of Volta have no int8; theirs is DP4A on the vector units",
    ("nvidia_H100", "bandwidth"): "3072 GB/s is no H100's; the data sheet has 3.35 TB/s",
    ("nvidia_H100_PCIe", "bandwidth"): "2048 GB/s counts 2 TB/s in binary",
    ("intel_13900k", "fp16"): "no 16-bit arithmetic; theirs is fp32 of the P-cores alone",
}
"""LLM-Viewer's `nvidia_A100` is the 40 GB part, which the alias says."""


def test_devices_agree_with_llm_viewer_or_say_why(shared: Path) -> None:
    with (shared / "golden" / "llm_viewer_hardware.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 10
    needed = set()
    for theirs in rows:
        device = catalog.find_hardware(theirs["name"])
        ours = {
            "bandwidth": device.memory_bandwidth_bytes_per_s,
            "fp16": device.peak("fp16"),
            "int8": device.peak("int8"),
        }
        stated = {
            "bandwidth": theirs["bandwidth_bytes_per_s"],
            "fp16": theirs["fp16_flops_per_s"],
            "int8": theirs["int8_flops_per_s"],
        }
        for field, text in stated.items():
            value = ours[field]
            if text and (value is None or abs(value - float(text)) > 0.02 * float(text)):
                needed.add((theirs["name"], field))
    assert needed == set(LLM_VIEWER)


# -- prices


def test_what_people_rent_has_a_price() -> None:
    assert len(PRICES) >= 35
    assert len({row["provider"] for row in PRICES}) >= 6
    rented = {
        "t4", "v100-sxm-16gb", "a10", "a10g", "l4", "l40s", "a100-sxm-40gb", "a100-sxm-80gb", "h100-sxm", "h100-pcie", "h200", "b200",
        "b300", "mi300x", "tpu-v5e", "tpu-v5p", "tpu-v6e", "trainium", "inferentia2", "rtx-4090", "rtx-3090", "a6000",
    }  # fmt: skip
    assert rented <= {row["hardware_id"] for row in PRICES}


@pytest.mark.parametrize("row", PRICES, ids=[row["price_id"] for row in PRICES])
def test_a_price_is_plausible(row: dict[str, object]) -> None:
    device = HARDWARE[str(row["hardware_id"])]
    usd = float(str(row["usd_per_device_hour"]))
    assert 0.1 < usd < 10
    best = max(device.peak(dtype) or 0.0 for dtype in ("fp32", "fp16", "bf16"))
    assert 0.2 < usd / (best / 1e15) < 60, "US dollars of a dense 16-bit PFLOP/s for one hour"


def test_price_is_the_cheapest_row_and_none_without_one() -> None:
    for hardware_id in HARDWARE:
        offers = [row for row in PRICES if row["hardware_id"] == hardware_id]
        cheapest = catalog.price(hardware_id)
        if not offers:
            assert cheapest is None
        else:
            assert cheapest in offers
            assert cheapest["usd_per_device_hour"] == min(row["usd_per_device_hour"] for row in offers)
