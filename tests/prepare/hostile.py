"""Damaged and odd images, made by seed from a good one."""

import gzip
import struct

import nibabel as nib
import numpy as np

#: Byte offsets of a NIfTI-1 header.
_DIM, _DATATYPE, _BITPIX, _PIXDIM, _VOX_OFFSET, _SLOPE, _QFORM, _SROW = 40, 70, 72, 76, 108, 112, 252, 280


def _header(data, offset, code, *values):
    return data[:offset] + struct.pack("<" + code, *values) + data[offset + struct.calcsize(code) :]


def _voxels(rng, change):
    def damage(voxels, affine):
        return nib.Nifti1Image(change(voxels.astype(np.float32), rng), affine)

    return damage


def _some(value):
    def change(voxels, rng):
        voxels[tuple(rng.integers(0, voxels.shape, (int(rng.integers(1, 50)), 3)).T)] = value
        return voxels

    return change


def _kind(dtype):
    return lambda v, a, r: nib.Nifti1Image(np.clip(v, 0, 120).astype(dtype), a, dtype=np.dtype(dtype))


def _big_endian(voxels, affine):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    return nib.Nifti1Image(voxels, affine, header)


def _sheared(voxels, affine):
    sheared = affine.copy()
    sheared[0, 1] = 0.6 * affine[1, 1]
    return nib.Nifti1Image(voxels, sheared)


#: Images that are odd from the start: voxels [x, y, z], affine -> image.
IMAGES = {
    "nan": lambda v, a, r: _voxels(r, _some(np.nan))(v, a),
    "infinite": lambda v, a, r: _voxels(r, _some(-np.inf))(v, a),
    "constant": lambda v, a, r: nib.Nifti1Image(np.full_like(v, 7), a),
    "empty": lambda v, a, r: nib.Nifti1Image(np.zeros_like(v), a),
    "negative": lambda v, a, r: nib.Nifti1Image(-v, a),
    "series": lambda v, a, r: nib.Nifti1Image(np.stack([v] * int(r.integers(2, 5)), -1), a),
    "one volume of a series": lambda v, a, r: nib.Nifti1Image(v[..., None], a),
    "flat": lambda v, a, r: nib.Nifti1Image(v[:, :, :1], a),
    "complex": lambda v, a, r: nib.Nifti1Image(v.astype(np.complex64), a),
    "sheared": lambda v, a, r: _sheared(v, a),
    "big-endian": lambda v, a, r: _big_endian(v, a),
    "right to left": lambda v, a, r: nib.Nifti1Image(v[::-1], a @ np.diag([-1.0, 1, 1, 1])),
    "spike": lambda v, a, r: _voxels(r, _some(1e30))(v, a),
    **{f"as {dtype}": _kind(dtype) for dtype in ("i1", "u1", "i4", "i8", "u2", "f4", "f8")},
}
#: Damage to the bytes of a NIfTI-1 file: (bytes, generator) -> bytes.
BYTES = {
    "cut": lambda d, r: d[: int(r.integers(0, len(d)))],
    "cut in the header": lambda d, r: d[: int(r.integers(0, 352))],
    "flipped bits": lambda d, r: _flipped(d, r, 0, len(d)),
    "flipped bits in the header": lambda d, r: _flipped(d, r, 0, 348),
    "huge": lambda d, r: _header(d, _DIM, "4h", 3, *r.integers(20_000, 32_767, 3).tolist()),
    "negative size": lambda d, r: _header(d, _DIM, "4h", 3, -24, 26, 22),
    "no axes": lambda d, r: _header(d, _DIM, "h", int(r.choice([0, 8, 99, -3]))),
    "another type": lambda d, r: _header(d, _DATATYPE, "2h", int(r.choice([0, 1, 128, 1536, 2304, 9999])), 16),
    "spacing of zero": lambda d, r: _header(_header(d, _PIXDIM, "4f", 1, 0, 0, 0), _SROW, "12f", *[0.0] * 12),
    "negative spacing": lambda d, r: _header(d, _PIXDIM, "4f", 1, -6, -6, -6),
    "spacing that is no number": lambda d, r: _header(d, _SROW, "12f", *[float("nan")] * 12),
    "singular affine": lambda d, r: _header(d, _SROW, "12f", *([6.0, 0, 0, 0] * 3)),
    "metres": lambda d, r: _header(d, _SROW, "12f", 0.006, 0, 0, 0, 0, 0.006, 0, 0, 0, 0, 0.006, 0),
    "no affine": lambda d, r: _header(d, _QFORM, "2h", 0, 0),
    "offset beyond the end": lambda d, r: _header(d, _VOX_OFFSET, "f", 1e9),
    "slope that is no number": lambda d, r: _header(d, _SLOPE, "2f", float("inf"), float("nan")),
    "text": lambda d, r: b"<html>404</html>" * int(r.integers(1, 90)),
    "zeros": lambda d, r: bytes(len(d)),
    "nothing": lambda d, r: b"",
}


def _flipped(data, rng, start, end):
    changed = bytearray(data)
    for place in rng.integers(start, end, int(rng.integers(1, 30))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def write(folder, image, count, seed=0):
    """Write `count` files `NNN_what.nii[.gz]` into a folder; return their paths.

    Args:
      image: (number) -> a good image of int16, each another.
    """
    kinds = (
        [("image", k) for k in IMAGES] + [("bytes", k) for k in BYTES] + [("gzip", k) for k in ("cut", "flipped bits")]
    )
    paths = []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        how, kind = kinds[i % len(kinds)]
        good = image(i)
        voxels, affine = np.asarray(good.dataobj), good.affine
        name = f"{i:03d} {kind}.nii"
        if how == "image":
            data = IMAGES[kind](voxels, affine, rng).to_bytes()
        else:
            data = nib.Nifti1Image(voxels, affine).to_bytes()
            if how == "bytes":
                data = BYTES[kind](data, rng)
        if how == "gzip" or rng.random() < 0.5:
            name, data = name + ".gz", gzip.compress(data, 1)
            if how == "gzip":
                data = BYTES[kind](data, rng)
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    return paths
