"""Damaged and odd videos, made by seed from good ones, and files that are none."""

import gzip
import io
import itertools
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

from jaxneuro.sources.kinetics import SUFFIXES
from tests.video import media

#: Good files: name -> number of frames, some less than a clip of 80, and arguments of `media.write`.
GOOD = {
    "index last.mp4": (90, {"qp": "34"}),
    "index first.mp4": (88, {"qp": "34"}),
    "fragments.mp4": (86, {"qp": "34"}),
    "mpeg4.mp4": (84, {"codec": "mpeg4"}),
    "quicktime.mov": (81, {"qp": "34"}),
    "matroska.mkv": (84, {"qp": "34"}),
    "vp8.webm": (24, {"codec": "libvpx", "deadline": "realtime", "cpu-used": "8"}),
    "chunks.avi": (40, {"codec": "mpeg4"}),
    "tags.flv": (90, {"codec": "flv"}),
    "objects.wmv": (90, {"codec": "wmv2"}),
    "packets.ts": (82, {"qp": "34"}),
    "packs.mpg": (30, {"codec": "mpeg2video"}),
}
#: Those of them whose packets are put together again as the muxer's option says.
_REMUXED = {"index first.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov"}


def good(folder):
    """Write the good files into a folder; return their paths."""
    paths = []
    for number, (name, (frames, how)) in enumerate(GOOD.items()):
        if how.get("codec", media.CODEC) not in av.codecs_available:
            continue
        paths.append(media.write(folder / name, frames, size=(72, 96), picture=_scene(number), **how))
        if name in _REMUXED:
            before = paths[-1].rename(folder / f"before {name}")
            _remux(before, paths[-1], _REMUXED[name])
            before.unlink()
    return paths


def _scene(seed):
    """Return what moves over a field of squares, so that pictures depend on those before them."""
    field = np.random.default_rng(seed).integers(0, 256, (30, 36, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    return lambda i: field[i % 24 : i % 24 + 72, 2 * i % 40 : 2 * i % 40 + 96]


def _remux(path, out, movflags):
    with av.open(str(path)) as source, av.open(str(out), "w", options={"movflags": movflags}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


# ---- damage to the bytes of any file ---------------------------------------------------------------------------------


def _flipped(data, rng, start, end):
    changed = bytearray(data)
    for place in rng.integers(start, end, int(rng.integers(1, 30))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _over(data, rng, fill):
    length = int(rng.integers(16, len(data) // 3))
    start = int(rng.integers(len(data) - length))
    return data[:start] + fill(length) + data[start + length :]


def _chunks(data, rng, change):
    size = int(2 ** rng.integers(7, 13))
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    i, j = sorted(int(n) for n in rng.choice(len(parts), 2, replace=False))
    return b"".join(change(parts, i, j))


#: (bytes, generator) -> bytes.
BYTES = {
    "untouched": lambda d, r: d,
    "another ending": lambda d, r: d,
    "cut": lambda d, r: d[: int(r.integers(1, len(d)))],
    "cut in the header": lambda d, r: d[: int(r.integers(1, 200))],
    "cut at the start": lambda d, r: d[int(r.integers(1, len(d))) :],
    "flipped bits": lambda d, r: _flipped(d, r, 0, len(d)),
    "flipped bits at the start": lambda d, r: _flipped(d, r, 0, 1000),
    "flipped bits at the end": lambda d, r: _flipped(d, r, len(d) - 4000, len(d)),
    "zeros within": lambda d, r: _over(d, r, bytes),
    "noise within": lambda d, r: _over(d, r, r.bytes),
    "noise before it": lambda d, r: r.bytes(int(r.integers(1, 5000))) + d,
    "noise behind it": lambda d, r: d + r.bytes(int(r.integers(1, 5000))),
    "zeros behind it": lambda d, r: d + bytes(int(r.integers(1, 5000))),
    "swapped chunks": lambda d, r: _chunks(d, r, lambda p, i, j: [*p[:i], p[j], *p[i + 1 : j], p[i], *p[j + 1 :]]),
    "repeated chunk": lambda d, r: _chunks(d, r, lambda p, i, j: [*p[: i + 1], *p[i:]]),
    "chunk repeated elsewhere": lambda d, r: _chunks(d, r, lambda p, i, j: [*p[:j], p[i], *p[j:]]),
    "lost chunk": lambda d, r: _chunks(d, r, lambda p, i, j: [*p[:i], *p[i + 1 :]]),
    "twice": lambda d, r: d + d,
    "halves swapped": lambda d, r: d[len(d) // 2 :] + d[: len(d) // 2],
    "inverted": lambda d, r: bytes(255 - b for b in d),
    "compressed": lambda d, r: gzip.compress(d, 1),
}
#: The same of files that begin with a header.
HEADERS = {
    "header of zeros": lambda d, r: bytes(n := int(r.integers(64, 2000))) + d[n:],
    "header of noise": lambda d, r: r.bytes(n := int(r.integers(64, 2000))) + d[n:],
    "header gone": lambda d, r: d[int(r.integers(64, 2000)) :],
}

# ---- damage to fields ------------------------------------------------------------------------------------------------


def _field(name, offset, code, *values):
    """Write over fields that lie so many bytes behind a name, wherever it stands; a value can be a function of rng."""

    def damage(data, rng):
        changed, at = bytearray(data), data.find(name)
        packed = struct.pack(code, *(v(rng) if callable(v) else v for v in values))
        while at >= 0:
            start = at + len(name) + offset
            if start + len(packed) <= len(data):
                changed[start : start + len(packed)] = packed
            at = data.find(name, at + 1)
        return bytes(changed)

    return damage


def _all(*damages):
    def damage(data, rng):
        for each in damages:
            data = each(data, rng)
        return data

    return damage


def _any(*damages):
    return lambda data, rng: damages[int(rng.integers(len(damages)))](data, rng)


def _huge(rng):
    return int(rng.choice([2**31 - 1, 2**32 - 1, 2**32 - 16, 2**28, 10**9]))


def _some(rng):
    return int(rng.integers(2**32))


def _size(rng):
    return int(rng.choice([0, 1, 7, 9, 2**31 - 1, 2**31, 2**32 - 1]))


def _length(rng):
    """Return how Matroska writes a length in eight bytes: unknown, none, huge."""
    return int(rng.choice([2**57 - 1, 2**56, 2**56 + 2**32 - 1, 2**57 - 2]))


def _nested(data, rng):
    depth = int(rng.integers(20, 3000))
    return data[:32] + b"".join(struct.pack(">I4s", 8 * (depth - i), b"moov") for i in range(depth)) + data[32:]


_BOXES = (b"moov", b"mdat", b"trak", b"mdia", b"stbl", b"stsd", b"stsz", b"avcC", b"moof", b"traf", b"trun")
#: Of MP4: what is huge here is gigabytes to a reader that believes it.
MP4 = {
    "huge picture": _all(
        _field(b"tkhd", 76, ">II", _huge, _huge), *(_field(c, 24, ">HH", 65535, 65535) for c in (b"avc1", b"mp4v"))
    ),
    "huge duration": _all(*(_field(b, n, ">I", _huge) for b, n in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)))),
    "huge ticks": _field(b"mdhd", 12, ">I", _huge),
    "no ticks": _field(b"mdhd", 12, ">I", 0),
    "huge number of samples": _field(b"stsz", 8, ">I", _huge),
    "huge samples": _field(b"stsz", 4, ">I", _huge),
    "samples without sizes": _all(
        _field(b"stsz", 4, ">II", 1, 40_000_000), _field(b"stsc", 4, ">IIII", 1, 1, 40_000_000, 1)
    ),
    "fragments without sizes": _field(b"trun", 0, ">II", 0, 40_000_000),
    "fragments without end": _field(b"trun", 4, ">I", 100_000_000),
    "huge chunks": _field(b"stsc", 12, ">I", _huge),
    "huge number of chunks": _field(b"stco", 4, ">I", _huge),
    "chunks beyond the end": _field(b"stco", 8, ">I", _huge),
    "huge number of times": _field(b"stts", 8, ">I", _huge),
    "huge steps of time": _field(b"stts", 12, ">I", _huge),
    "no steps of time": _field(b"stts", 12, ">I", 0),
    "huge shifts of time": _field(b"ctts", 8, ">II", _some, _huge),
    "huge tables": _all(*(_field(b, 4, ">I", _huge) for b in (b"stts", b"ctts", b"stsc", b"stss"))),
    "keyframes that are none": _field(b"stss", 8, ">II", 3, 5),
    "no keyframes": _field(b"stss", 4, ">I", 0),
    "edited": _field(b"elst", 8, ">III", _some, _some, _some),
    "turned": _field(b"tkhd", 40, ">9I", *[_some] * 9),
    "size of a box": _any(*(_field(b, -8, ">I", _size) for b in _BOXES)),
    "another codec": _any(*(_all(_field(b"avc1", -4, "4s", c), _field(b"mp4v", -4, "4s", c)) for c in (
        b"hvc1", b"vp09", b"av01", b"rle ", b"raw ", b"xxxx",
    ))),
    "codec's header": _any(*(_field(b, n, ">I", _some) for b in (b"avcC", b"esds") for n in (0, 4, 8, 12, 16, 20))),
    "boxes in boxes": _nested,
}  # fmt: skip
AVI = {
    "huge picture": _all(_field(b"avih", 36, "<II", 65535, 65535), _field(b"strf", 8, "<II", 65535, 65535)),
    "huge number of frames": _all(_field(b"avih", 20, "<I", _huge), _field(b"strh", 36, "<I", _huge)),
    "rate of nothing": _field(b"strh", 24, "<II", 0, 0),
    "huge steps of time": _field(b"strh", 24, "<II", _huge, 1),
    "size of a chunk": _any(*(_field(c, 0, "<I", _size) for c in (b"LIST", b"strh", b"strf", b"idx1", b"00dc"))),
}
MATROSKA = {
    "no ticks": _field(b"\x2a\xd7\xb1\x83", 0, "3s", b"\0\0\0"),
    "huge ticks": _field(b"\x2a\xd7\xb1\x83", 0, "3s", b"\xff\xff\xff"),
    "size of a part": _any(*(_field(i, 0, ">Q", _length) for i in (
        b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75",
    ))),
}  # fmt: skip
VP8 = {"huge picture": _field(b"\x9d\x01\x2a", 0, "<HH", 16383, 16383)}

# ---- no videos -------------------------------------------------------------------------------------------------------


def _picture(form):
    def make(data, rng):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (72, 96, 3)).astype(np.uint8)).save(file, form)
        return file.getvalue()

    return make


def _sound(name):
    def make(data, rng):
        with tempfile.TemporaryDirectory() as folder:
            return media.write_sound(Path(folder) / name).read_bytes()

    return make


NONE = {
    "nothing": lambda d, r: b"",
    "one byte": lambda d, r: r.bytes(1),
    "text": lambda d, r: b"<html>404</html>" * int(r.integers(1, 900)),
    "zeros": lambda d, r: bytes(int(r.integers(1, 50_000))),
    "noise": lambda d, r: r.bytes(int(r.integers(100, 50_000))),
    "sound in mp4": _sound("a.mp4"),
    "sound in mkv": _sound("a.mkv"),
    "photograph": _picture("JPEG"),
    "drawing": _picture("PNG"),
    "moving drawing": _picture("GIF"),
    "playlist": lambda d, r: b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n000 untouched, index last.mp4\n",
    "list of files": lambda d, r: b"ffconcat version 1.0\nfile '000 untouched, index last.mp4'\n",
}

# ---- all of them -----------------------------------------------------------------------------------------------------

#: What is done, how, and to files of which endings.
_ALL = [
    (kind, damage, endings)
    for kinds, endings in (
        (BYTES, SUFFIXES),
        (HEADERS, (".mp4", ".mov", ".mkv", ".webm", ".avi", ".flv", ".wmv")),
        (MP4, (".mp4", ".mov")),
        (AVI, (".avi",)),
        (MATROSKA, (".mkv",)),
        (VP8, (".webm",)),
        (NONE, SUFFIXES),
    )
    for kind, damage in kinds.items()
]


@dataclass(frozen=True)
class Damaged:
    """A file, what was done to which."""

    path: Path
    kind: str
    source: Path


def write(folder, sources, count, seed=0):
    """Write `count` files `NNN what, source` into a folder, those with a picture in them all different.

    Args:
      sources: good files.
    """
    written, seen = [], set()
    for i in itertools.count():
        rng = np.random.default_rng((seed, i))
        kind, damage, endings = _ALL[i % len(_ALL)]
        fitting = [p for p in sources if p.suffix in endings]
        for n in range(len(fitting)):
            source = fitting[(i % len(_ALL) + i // len(_ALL) + n) % len(fitting)]
            good = source.read_bytes()
            data = damage(good, rng)
            same = data == good and kind not in ("untouched", "another ending")
            if kind in NONE or (data not in seen and not same):
                break
        else:
            continue
        seen.add(data)
        ending = source.suffix
        if kind == "another ending":
            ending = str(rng.choice([e for e in SUFFIXES if e != ending]))
        path = folder / f"{len(written):03d} {kind}, {source.stem}{ending}"
        path.write_bytes(data)
        written.append(Damaged(path, kind, source))
        if len(written) == count:
            return written
