"""What accelerators can do at most, as published, and the time that this allows a step of training."""

from __future__ import annotations

from dataclasses import dataclass

from jaxneuro.errors import InputError


@dataclass(frozen=True)
class Device:
    """The published peaks of an accelerator; bytes and bytes a second are decimal, as data sheets have them.

    Attributes:
      name: as people call it.
      flops: dense operations a second by the dtype of the factors, as jax multiplies them by default: float32 as
        bfloat16 on TPUs (one pass) and as TF32 on GPUs.
      memory: bytes.
      memory_rate: bytes a second between memory and chip.
      link_rate: bytes a second that one device sends to the others of its host, or of its slice.
      network_rate: bytes a second that one device sends to other hosts; 0 where the links go there, too.
      host_rate: bytes a second from its host's memory.
      per_host: how many a host has.
    """

    name: str
    flops: dict[str, float]
    memory: float
    memory_rate: float
    link_rate: float
    network_rate: float
    host_rate: float
    per_host: int


def _device(
    name: str, half: float, single: float, memory: float, rates: tuple[float, float, float, float], per_host: int
) -> Device:
    """Return a device from TFLOP/s in bfloat16 and float32, GB, and GB/s of memory, links, network and host."""
    flops = {"bfloat16": half * 1e12, "float16": half * 1e12, "float32": single * 1e12}
    of_memory, link, network, host = (rate * 1e9 for rate in rates)
    return Device(name, flops, memory * 1e9, of_memory, link, network, host, per_host)


#: By name. Links are one way: half of what NVIDIA states for both. Sources, each seen in November 2026:
#: v5e, v5p: Google Cloud, "TPU v5e" and "TPU v5p" (system architecture; links 1,600 and 4,800 Gbit/s a chip); from the
#:   host, "How to Scale Your Model" (Austin et al. 2025, part 2): about 15 GB/s a chip.
#: a100, h100, h200: NVIDIA's data sheets of the SXM modules (A100 80GB, H100, H200), whose starred figures are halved:
#:   they are with sparsity. H100's dense ones are 989.4 and 494.7 in NVIDIA's "H100 Tensor Core GPU Architecture".
#:   Network: one adapter a GPU in DGX A100 (HDR, 200 Gbit/s), DGX H100 and H200 (NDR, 400 Gbit/s).
#:   From the host: PCIe 4.0 and 5.0 with 16 lanes, one way.
DEVICES: dict[str, Device] = {
    "v5e": _device("TPU v5e", 197, 197, 16, (819, 200, 0, 15), 8),
    "v5p": _device("TPU v5p", 459, 459, 95, (2765, 600, 0, 15), 4),
    "a100": _device("A100 SXM 80 GB", 312, 156, 80, (2039, 300, 25, 32), 8),
    "h100": _device("H100 SXM", 989.4, 494.7, 80, (3350, 450, 50, 64), 8),
    "h200": _device("H200 SXM", 989.4, 494.7, 141, (4800, 450, 50, 64), 8),
}


def find(name: str) -> Device:
    """Return the device of a name.

    Raises:
      InputError: there is none; lists those that there are.
    """
    if name.lower() not in DEVICES:
        raise InputError(f"--device: found '{name}'; expected one of {', '.join(DEVICES)}")
    return DEVICES[name.lower()]


@dataclass(frozen=True)
class Collective:
    """What devices exchange in one step of training, along some axes of the mesh.

    Attributes:
      axes: the mesh axes whose devices take part.
      kind: "all-gather", "reduce-scatter" or "all-reduce".
      size: bytes of the whole array that is gathered or reduced.
      ways: how many devices take part.
      stride: how far apart they are in the order of devices.
    """

    axes: str
    kind: str
    size: float
    ways: int
    stride: int

    @property
    def sent(self) -> float:
        """Return the bytes that each device sends in a ring.

        Each of n devices passes on n - 1 of n pieces to gather or to scatter sums; an all-reduce does both, one after
        the other: 2 (n - 1) / n of the array (Patarasuk and Yuan 2009; `PERFORMANCE.md` of nccl-tests).
        """
        return (2 if self.kind == "all-reduce" else 1) * (self.ways - 1) / self.ways * self.size

    def rate(self, device: Device, per_host: int) -> float:
        """Return bytes a second that a device sends at most in this exchange, with so many devices a host.

        A ring that leaves a host does so through the adapters of all its members there.
        """
        if not device.network_rate or self.stride * self.ways <= per_host:
            return device.link_rate
        return min(device.link_rate, device.network_rate * max(per_host // self.stride, 1))


@dataclass(frozen=True)
class Roofline:
    """The seconds that each part of a step takes at the least, on one kind of device."""

    compute: float
    memory: float
    network: float
    input: float

    @property
    def parts(self) -> dict[str, float]:
        """Return the seconds of each part by its name."""
        return {"compute": self.compute, "memory": self.memory, "network": self.network, "input": self.input}

    @property
    def step(self) -> float:
        """Return the seconds of a step in which the parts hide behind the longest (Williams et al. 2009)."""
        return max(self.parts.values())

    @property
    def limit(self) -> str:
        """Return the name of the longest part."""
        return max(self.parts, key=lambda name: self.parts[name])


def roofline(
    device: Device, *, flops: dict[str, float], moved: float, exchanged: list[Collective], read: float, per_host: int
) -> Roofline:
    """Return the seconds that a device takes at the least for its part of a step.

    Args:
      device: its peaks.
      flops: operations of one device by the dtype of the factors.
      moved: bytes between its memory and its chip.
      exchanged: what it exchanges with others, one after the other.
      read: bytes that it gets from its host.
      per_host: devices of a host that take part.
    """
    return Roofline(
        compute=sum(count / device.flops.get(dtype, device.flops["float32"]) for dtype, count in flops.items()),
        memory=moved / device.memory_rate,
        network=sum(one.sent / one.rate(device, per_host) for one in exchanged),
        input=read / device.host_rate,
    )
