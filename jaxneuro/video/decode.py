"""Decode videos with PyAV: look through a file, and read frames at given places of it.

Time is cut into an even grid at the file's mean rate, and frame i of a `Video` is the picture that is on display in
the middle of slot i. At a constant rate that is the file's own frame i, times rounded to milliseconds included; at a
variable rate movements keep their speed.

Nothing here trusts a file: only regular files are opened, only as one of the usual containers (a playlist could name
other files, or the network), pictures have a largest size, and there is a limit to frames and to seconds.
"""

from __future__ import annotations

import math
import re
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import Interpolation

from jaxneuro.errors import ScanError
from jaxneuro.video import sampling
from jaxneuro.video.sampling import Recipe, View

#: Largest picture, pixels: that of 8K.
MAX_PIXELS = 7680 * 4320
#: Longest picture: its longer side as a multiple of the shorter, which is what is resized to a given size.
MAX_LENGTH = 16
#: Most frames that are looked through, and seconds of a processor that one look may take.
MAX_FRAMES, MAX_SECONDS = 1_000_000, 600.0

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,asf,ogg,h264,hevc,m4v,mpegvideo"
#: Samples a byte that an MP4 may declare without the size of each; old QuickTime has some 10 in low sound.
_SAMPLES_A_BYTE = 16
#: Frames that an MP4 may show for each sample: an edit list of a few bytes can show all of them again.
_SHOWN_AGAIN = 4
#: Frames with a time no later than that of the one before them, in display, that may be left out.
_FEW = 3
#: Largest mean interval between frames, as a multiple of the median one: beyond it the mean rate is not that of most.
_UNEVEN = 4
#: Share of what a file declares that makes it whole.
_WHOLE = Fraction(9, 10)
#: Containers that write down their length and keep it when they are cut; others are measured by FFmpeg as they are.
_DECLARING = {"matroska,webm", "flv", "asf"}
#: Seconds before the part asked for where decoding begins.
_LEAD = 2
#: Boxes of an MP4 on the way to those that declare samples.
_HOLD = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
#: The last two make the result the same on every processor.
_HOW = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_FRAGMENT = re.compile(r"(.+)#t=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)$", re.DOTALL)
#: Pictures that are made from others.
_REFERRING = (PictureType.P, PictureType.B, PictureType.S)
#: Times are often kept in milliseconds.
_TICK = Fraction(1, 1000)


@dataclass(frozen=True)
class Video:
    """A video that can be decoded, or a part of one.

    Attributes:
      frames: on its grid, as many as the file has.
      rate: of the grid, frames a second.
      start: time at which the first one is shown, seconds on the file's own clock.
      height, width: of the picture as it is shown, pixels.
    """

    frames: int
    rate: Fraction
    start: Fraction
    height: int
    width: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return float(self.frames / self.rate)


def split_fragment(path: str) -> tuple[str, Fraction, Fraction | None]:
    """Return file, start and end in seconds of a path such as `a.mp4#t=10,20` (W3C media fragments).

    Without a fragment the start is 0 and the end None.
    """
    match = _FRAGMENT.match(path)
    return (match[1], Fraction(match[2]), Fraction(match[3])) if match else (path, Fraction(0), None)


def probe(path: str) -> Video:
    """Decode a video, or the part that a fragment names, from end to end, and return what it is.

    Raises:
      ScanError: it is empty, no video, damaged, cut short, too large, or has no frame in the part asked for.
    """
    file, begin, end = split_fragment(path)
    if begin > _LEAD:
        with suppress(ScanError):  # an index that is wrong, or keyframes that are far apart or none
            return _look(file, begin, end, seek=True)
    return _look(file, begin, end, seek=False)


def _look(file: str, begin: Fraction, end: Fraction | None, seek: bool) -> Video:
    """Return what the part of a file is, decoded from shortly before it or from the start of the file."""
    times: list[Fraction] = []
    size, seen, until = (0, 0), 0, Fraction(0)
    ended = True
    with _opened(file) as (container, stream, most):
        zero = _zero(container, stream)
        for when, frame in _frames(container, stream, _before(zero, begin) if seek else None):
            seen += 1
            if seen == 1 and seek and when - zero > begin + _TICK:
                raise ScanError(f"{float(when - zero):.2f} s as the first frame", f"one before {float(begin):g} s")
            if seen > most:
                again = f" of {most // _SHOWN_AGAIN:,} samples" if most < MAX_FRAMES else ""
                raise ScanError(f"more than {most:,} frames{again}", "fewer", "cut it into parts, or encode it anew")
            if end is not None and when - zero + _TICK < begin:
                continue
            if end is not None and when - zero + _TICK >= end:
                ended = False
                break
            if not times:
                size = _shown(frame)
            times.append(when)
            until = max(until, when - zero + frame.duration * frame.time_base)
        rate = stream.average_rate or Fraction(25)
        samples, seconds = _declared(container, stream)
    if not times:
        where = "no frame" if end is None else f"no frame between {float(begin):g} and {float(end):g} s"
        raise ScanError(where, "one or more", "check the download, and the times of the table")
    if end is None and samples:
        if len(times) < _WHOLE * samples:
            raise ScanError(f"{len(times)} of {samples} frames (cut short)", "all of them", "download it again")
    elif ended and seconds:
        stop = seconds if end is None else min(seconds, end)
        # Sound may go on after the last frame, and its length is the container's, too.
        if until - begin < _WHOLE * (stop - begin) and _last(file) - begin < _WHOLE * (stop - begin):
            found = f"the last frame at {float(until):.2f} of {float(stop):.2f} s (cut short)"
            raise ScanError(found, "frames to the end", "download it again")
    if max(size) > MAX_LENGTH * min(size):
        raise ScanError(f"pictures of {size[1]} x {size[0]}", f"a side at most {MAX_LENGTH} times the other")
    if len(times) > 1:
        rate = (len(times) - 1) / (times[-1] - times[0])
        middle = float(np.median(np.diff(np.array(times, float))))
        if 1 / rate > _UNEVEN * middle:
            raise ScanError(
                f"frames {float(1 / rate):.3g} s apart on average, most of them {middle:.3g} s (a gap in their times)",
                f"an average of at most {_UNEVEN} times the usual",
                "cut it at the gap, or encode it at a constant rate",
            )
    return Video(len(times), Fraction(rate), times[0], *size)


def _declared(container: Any, stream: Any) -> tuple[int, Fraction | None]:
    """Return how many frames and seconds a file says it shows; 0 and None where it does not say."""
    seconds = None
    if stream.duration and "mp4" in container.format.name:
        length = stream.duration * stream.time_base
        seconds = length + (stream.start_time or 0) * stream.time_base - _zero(container, stream)
        # An edit list hides samples (of a film trimmed without encoding it anew), and nothing says how many.
        if stream.average_rate and stream.frames / stream.average_rate > length * Fraction(101, 100):
            return 0, seconds
        if not stream.frames:  # in fragments, whose length FFmpeg has measured
            return 0, None
    elif container.duration and container.format.name in _DECLARING:
        seconds = Fraction(container.duration, av.time_base)
    return stream.frames, seconds


def _last(file: str) -> Fraction:
    """Return when the last packet of a file ends, whatever is in it, seconds from its start."""
    with _opened(file) as (container, stream, _):
        ends = [(p.pts + (p.duration or 0)) * p.time_base for p in container.demux() if p.pts is not None]
        return max(ends) - _zero(container, stream)


def read(path: str, video: Video, recipe: Recipe, views: list[View]) -> np.ndarray:
    """Return clips [v, T, h, w, c] uint8 of one video.

    Frames between the first and the last of a clip are decoded from the keyframe before it, once for views that begin
    together.

    Args:
      path: the file, or the part of it.
      video: what `probe` returned of it.
      recipe: the recipe.
      views: which clips.

    Raises:
      ScanError: the file is no longer one that decodes.
    """
    # A damaged index names keyframes that are none. What `probe` has decoded decodes in the same way again.
    for since in ("clip", "part") if split_fragment(path)[1] > _LEAD else ("clip",):
        with suppress(ScanError):
            return _clips(path, video, recipe, views, since)
    return _clips(path, video, recipe, views, "file")


def _clips(path: str, video: Video, recipe: Recipe, views: list[View], since: str) -> np.ndarray:
    """Return clips, decoded from shortly before each "clip", or from the start of the "part" or the "file"."""
    clips = np.empty((len(views), *recipe.shape), np.uint8)
    file, begin, _ = split_fragment(path)
    form = "gray" if recipe.grey else "rgb24"
    for start, side in dict.fromkeys((v.start, v.side) for v in views):
        which = [i for i, v in enumerate(views) if (v.start, v.side) == (start, side)]
        slots = sampling.slots(recipe, start, video.frames)
        # Opened for each start: a seek to what an index calls the first keyframe need not lead back to the first frame.
        with _opened(file) as (container, stream, _):
            part = _before(_zero(container, stream), begin) if since == "part" else None
            tries = None if since == "clip" else [part]
            for slot, frame in _at(container, stream, video, sorted({int(s) for s in slots}), tries):
                picture = _picture(frame, video, side, form)
                for i in which:
                    clips[i, slots == slot] = _cut(picture, views[i].box, recipe.crop, form)
    return clips


@contextmanager
def _opened(file: str) -> Iterator[tuple[Any, Any, int]]:
    """Open a file; yields container, video stream and most frames, and turns their errors into ScanError."""
    try:
        path = Path(file)
        if not path.is_file():
            raise ScanError("no such file", "a video", "check the download")
        size = path.stat().st_size
        if size == 0:
            raise ScanError("an empty file", "a video", "download it again")
        with open(path, "rb") as f:
            samples, unsized = _samples(f, size)
        if unsized > (most := max(MAX_FRAMES, _SAMPLES_A_BYTE * size)):
            raise ScanError(f"{unsized:,} samples declared", f"at most {most:,} in {size:,} bytes", "download it again")
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        with av.open(str(path.absolute()), options=options, metadata_errors="replace") as container:
            streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not streams:
                has = f" ({', '.join(sorted({s.type for s in container.streams}))} only)" if container.streams else ""
                raise ScanError(f"no video in it{has}", "a stream of video")
            stream = streams[0]
            context = stream.codec_context
            if context is None:
                raise ScanError("no video that decodes (an unknown codec)", "a stream of video", "encode it anew")
            if context.width * context.height > MAX_PIXELS:
                raise ScanError(
                    f"pictures of {context.width} x {context.height}",
                    f"at most {MAX_PIXELS:,} pixels",
                    "make it smaller",
                )
            # One thread a file: files are read side by side. The size may change later in the file.
            stream.thread_type, stream.thread_count = "NONE", 1
            context.options = {"max_pixels": str(MAX_PIXELS)}
            declared = max(samples, stream.frames) if "mp4" in container.format.name else 0
            yield container, stream, min(MAX_FRAMES, _SHOWN_AGAIN * declared or MAX_FRAMES)
    except (av.FFmpegError, OSError, ValueError, ArithmeticError) as e:
        if isinstance(e, ScanError):
            raise
        raise ScanError(f"no video that decodes ({_line(e)})", "a whole file", "download it again") from e


def _samples(f: BinaryIO, end: int, depth: int = 0) -> tuple[int, int]:
    """Return how many samples the boxes of an MP4, up to `end`, declare, and how many of them without a size for each.

    FFmpeg makes room for whatever number there is, which is gigabytes when it is damaged.

    Raises:
      ScanError: a box declares more samples than it describes.
    """
    total = unsized = 0
    while (at := f.tell()) + 16 <= end and depth < 10:  # as deep as FFmpeg goes
        size, kind, long = struct.unpack(">I4sQ", f.read(16).ljust(16, b"\0"))
        body, stop = (at + 16, at + long) if size == 1 else (at + 8, at + size if size else end)
        stop = min(stop, end)
        if stop < body:
            break
        f.seek(body)
        if kind in _HOLD:
            within = _samples(f, stop, depth + 1)
            total, unsized = total + within[0], unsized + within[1]
        elif kind in (b"stsz", b"trun"):
            flags, first, second = struct.unpack(">3I", f.read(12).ljust(12, b"\0"))
            # One size for all or a table of them; up to four numbers for each, as the flags say.
            count, each = (second, 0 if first else 4) if kind == b"stsz" else (first, 4 * (flags & 0xF00).bit_count())
            if count * each > stop - body:
                found = f"an index of {count:,} samples in {stop - body:,} bytes"
                raise ScanError(found, f"{each} bytes for each", "download it again")
            total, unsized = total + count, unsized + (0 if each else count)
        f.seek(stop)
    return total, unsized


def _frames(container: Any, stream: Any, since: Fraction | None) -> Iterator[tuple[Fraction, Any]]:
    """Yield time and frame from the last keyframe at or before `since` (None: the start), in order of display."""
    deadline = time.thread_time() + MAX_SECONDS  # of this thread, which decodes: others may hold it up
    if since is not None:
        container.seek(int(since / stream.time_base), stream=stream, backward=True)
    key: Fraction | None = None
    last: Fraction | None = None
    hidden, left_out = False, 0
    for packet in container.demux(stream):
        if time.thread_time() > deadline:
            raise ScanError(
                f"a file that takes more than {MAX_SECONDS:g} s", "one that decodes sooner", "encode it anew"
            )
        if key is None and packet.is_keyframe and packet.pts is not None:
            key, hidden = packet.pts * stream.time_base, packet.is_discard
        for frame in packet.decode():
            if frame.pts is None:
                raise ScanError("frames without times", "a container that keeps times, such as mp4", "remux it")
            when = frame.pts * frame.time_base
            # Pictures before the keyframe in display, but after it in the file, lack what they refer to.
            early = since is not None and (key is None or when < key)
            if frame.is_corrupt and (key is None or not early):
                raise ScanError(f"a damaged frame at {float(when):.2f} s", "frames that decode", "download it again")
            if early:
                continue
            if last is not None and when <= last:
                left_out += 1
                if left_out > _FEW:
                    raise ScanError(
                        f"times that go backwards at {float(last):.2f} s",
                        "a time for each frame, later than that of the one before it",
                        "encode it anew, as mp4",
                    )
                continue
            # Where an index is wrong the first one does, too, and not every decoder tells. An edit list that hides the
            # keyframe shows what refers to it first.
            first = since is not None and last is None and not hidden
            if first and frame.pict_type in _REFERRING and not frame.key_frame:
                raise ScanError(f"no keyframe at {float(when):.2f} s", "one, as its index says", "remux it")
            last = when
            yield when, frame


def _zero(container: Any, stream: Any) -> Fraction:
    """Return where a file starts on its own clock, with its picture or with its sound."""
    if container.start_time is not None:
        return Fraction(container.start_time, av.time_base)
    return Fraction((stream.start_time or 0) * stream.time_base)


def _before(zero: Fraction, begin: Fraction) -> Fraction | None:
    """Return where to start for the part that begins so many seconds into a file, None for the file's start.

    That is well before it: containers seek by the order of decoding, and its first frame must not be missed.
    """
    return zero + begin - _LEAD if begin > _LEAD else None


def _at(
    container: Any, stream: Any, video: Video, slots: list[int], tries: Sequence[Fraction | None] | None
) -> Iterator[tuple[int, Any]]:
    """Yield the frames on display at rising slots of a video's grid, from the first of `tries` that is early enough."""
    moments = [video.start + (slot + Fraction(1, 2)) / video.rate for slot in slots]
    reached, shown = 0, None
    # Containers seek by the order of decoding: a keyframe can be later in display than what was asked for.
    for since in tries or (moments[0], max(moments[0] - 2, Fraction(0))):
        for when, frame in _frames(container, stream, since):
            if shown is None and when > moments[0]:
                break
            while reached < len(slots) and moments[reached] < when:
                yield slots[reached], shown
                reached += 1
            if reached == len(slots):
                return
            shown = frame
        if shown is not None:
            break
    if shown is None:
        raise ScanError(f"no frame at {float(moments[0]):.2f} s", "that of the preparation", "the file has changed")
    for slot in slots[reached:]:
        yield slot, shown


def _shown(frame: Any) -> tuple[int, int]:
    """Return (height, width) of a frame as it is shown."""
    return (frame.width, frame.height) if _pose(frame)[0] else (frame.height, frame.width)


def _pose(frame: Any) -> tuple[bool, bool, bool]:
    """Return whether a frame's rows become columns, and is then turned left to right, and upside down."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # A pixel at (x, y), y pointing down, is shown at (a x + c y, b x + d y).
    a, b, _, c, d, *_ = (float(n) for n in np.frombuffer(matrix, "=i4"))
    # Half a degree is what rounding may leave.
    if max(abs(b), abs(c)) < 0.009 * min(abs(a), abs(d)):
        return False, a < 0, d < 0
    if max(abs(a), abs(d)) < 0.009 * min(abs(b), abs(c)):
        return True, c < 0, b < 0
    angle = math.degrees(math.atan2(b, a))
    raise ScanError(f"pictures turned by {angle:.0f} degrees", "quarter turns", "encode it upright")


def _picture(frame: Any, video: Video, side: int, form: str) -> np.ndarray:
    """Return a frame [h, w, c] uint8, upright, its shorter side resized."""
    tall, wide = sampling.resized(video.height, video.width, side)
    swapped, mirrored, upended = _pose(frame)
    if swapped:
        tall, wide = wide, tall
    # One thread, for by default each picture starts as many as there are cores, which takes longer than to resize it.
    picture = frame.reformat(width=wide, height=tall, format=form, interpolation=_HOW, threads=1).to_ndarray()
    picture = picture.reshape(tall, wide, -1)
    picture = picture.swapaxes(0, 1) if swapped else picture
    return picture[:: -1 if upended else 1, :: -1 if mirrored else 1]


def _cut(picture: np.ndarray, box: tuple[int, int, int, int], crop: int, form: str) -> np.ndarray:
    """Return the part [crop, crop, c] of a picture that a box names."""
    top, left, height, width = box
    part = picture[top : top + height, left : left + width]
    if (height, width) == (crop, crop):
        return part
    flat = np.ascontiguousarray(part if form == "rgb24" else part[..., 0])
    frame = av.VideoFrame.from_ndarray(flat, format=form)
    return frame.reformat(width=crop, height=crop, interpolation=_HOW, threads=1).to_ndarray().reshape(crop, crop, -1)


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]
