"""Small videos whose frames say by their grey level which they are."""

import av
import numpy as np

#: h264 where the wheel has it.
CODEC = "libx264" if "libx264" in av.codecs_available else "mpeg4"
#: The display matrix of a file that players turn clockwise by 90 degrees: (x, y) to (-y, x), y pointing down.
CLOCKWISE = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
HALF_TURN = [-(1 << 16), 0, 0, 0, -(1 << 16), 0, 0, 0, 1 << 30]


def level(i):
    """Return the grey level of frame i; neighbours differ by more than a codec's error."""
    return 20 + 7 * (i % 32)


def index(frames):
    """Return which frame (modulo 32) each picture [..., h, w, c] is, by the mean of its centre."""
    h, w = frames.shape[-3:-1]
    mean = frames[..., h // 4 : -(h // 4), w // 4 : -(w // 4), :].mean((-3, -2, -1))
    found = (mean - 20) / 7
    assert np.abs(found - np.rint(found)).max() < 0.36, found
    return np.rint(found).astype(int)


def write(path, n=40, *, size=(48, 64), rate=25, gop=12, matrix=None, times=None, picture=None, codec=CODEC, **options):
    """Write a video of n frames, (height, width) in size; `times` are its frames' in ticks of 1/rate."""
    height, width = size
    with av.open(str(path), "w") as out:
        if codec == "libx264":
            options = {"preset": "veryfast", "qp": "8", **options}
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.gop_size = width, height, gop
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        if codec.startswith("mpeg"):
            stream.bit_rate = 4_000_000
        if matrix:
            stream.set_display_matrix(matrix)
        for i in range(n):
            pixels = np.full((height, width, 3), level(i), np.uint8) if picture is None else picture(i)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = times[i] if times else i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def write_sound(path):
    """Write a file with sound and no picture."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
