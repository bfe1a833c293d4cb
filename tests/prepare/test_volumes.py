"""One scan to one volume: geometry against closed forms, damage against one clear line each."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from jaxneuro.errors import ScanError
from jaxneuro.prepare import volumes
from jaxneuro.prepare.recipes import Recipe, recipe


def ball(shape=(60, 70, 65), spacing=2.0, centre=(5.0, -8.0, 3.0), radius=40.0):
    """A ball brighter to the right, in a grid whose middle is at 0 mm; returns voxels and affine."""
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    places = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * spacing + affine[:3, 3]
    offset = places - np.asarray(centre)
    inside = (offset**2).sum(-1) < radius**2
    return np.where(inside, 100 + offset[..., 0], 0).astype(np.float32), affine


def save(path, voxels, affine, **header):
    image = nib.Nifti1Image(voxels, affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def test_read_orients_any_storage_order_to_the_same_voxels(tmp_path):
    voxels, affine = ball()
    want, _ = volumes.read(save(tmp_path / "ras.nii.gz", voxels, affine))
    np.testing.assert_array_equal(want, voxels)
    for code in ("LAS", "PSR", "IRA", "LPI"):
        image = nib.Nifti1Image(voxels, affine)
        turned = image.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(code))
        )
        nib.save(turned, tmp_path / f"{code}.nii.gz")
        found, found_affine = volumes.read(tmp_path / f"{code}.nii.gz")
        np.testing.assert_array_equal(found, voxels)
        np.testing.assert_allclose(found_affine, affine)
        assert volumes.content_hash(found) == volumes.content_hash(want)


def test_content_hash_ignores_compression_and_stored_type_but_no_voxel(tmp_path):
    voxels, affine = ball()
    voxels = np.round(voxels)
    hashes = {
        volumes.content_hash(volumes.read(save(tmp_path / name, voxels.astype(kind), affine, descrip=name.encode()))[0])
        for name, kind in (("a.nii", np.int16), ("b.nii.gz", np.float32), ("c.nii.gz", np.uint8))
    }
    assert len(hashes) == 1
    voxels[30, 30, 30] += 1
    assert (
        volumes.content_hash(volumes.read(save(tmp_path / "d.nii", voxels.astype(np.int16), affine))[0]) not in hashes
    )


def test_scaled_shifted_and_turned_scans_of_one_object_become_one_volume():
    recipe = Recipe("t", (40, 40, 40), fov_mm=(160.0, 160.0, 160.0))
    want = volumes.apply(recipe, *ball())
    assert want.shape == (40, 40, 40, 1)
    assert want.dtype == np.float16
    finer = volumes.apply(recipe, *ball(shape=(119, 139, 129), spacing=1.0))
    moved = volumes.apply(recipe, *ball(centre=(-9.0, 6.0, -11.0)))
    inside = want[..., 0] > 0.3
    for other in (finer, moved):
        assert np.abs(other.astype(float) - want)[inside].mean() < 0.02


def test_the_object_lies_in_the_middle_and_keeps_its_size():
    recipe = Recipe("t", (40, 48, 40), fov_mm=(160.0, 192.0, 160.0))
    voxels, affine = ball()
    out = volumes.apply(recipe, voxels, affine)[..., 0].astype(float)
    # Smoothing and resampling keep the integral; the scale is the 99th percentile of the foreground.
    scale = np.percentile(voxels[voxels > 0], 99)
    assert out.sum() * np.prod(recipe.spacing_mm) * scale == pytest.approx(voxels.sum() * 8.0, rel=2e-3)
    # The mask's centre of mass is the middle of the grid; along x the ramp, variance 1600 / 5 over a mean of 100,
    # pulls the centre of brightness 3.2 mm to the right of it.
    centre = [np.average(np.arange(n), weights=out.sum(tuple({0, 1, 2} - {a}))) for a, n in enumerate(out.shape)]
    np.testing.assert_allclose(centre, [19.5 + 3.2 / 4.0, 23.5, 19.5], atol=0.05)
    # Brighter to the right: the first axis still runs from left to right.
    assert out[28, 24, 20] > out[12, 24, 20]


def test_smooth_values_are_resampled_exactly():
    """A linear ramp is unchanged by smoothing and by linear interpolation, so every voxel is known."""
    shape = (41, 41, 41)
    affine = np.diag([3.0, 2.0, 2.5, 1.0])
    affine[:3, 3] = [-60, -40, -50]
    x = affine[0, 3] + 3.0 * np.arange(41)
    voxels = np.broadcast_to((1000 + x)[:, None, None], shape).astype(np.float32)
    recipe = Recipe("t", (10, 10, 10), fov_mm=(40.0, 40.0, 40.0), scale_percentile=50.0)
    out = volumes.apply(recipe, voxels, affine)[..., 0].astype(float)
    # The grid is centred on the foreground, at 0 mm; the median voxel, 1000, becomes 1.
    want = (1000 + 4.0 * (np.arange(10) - 4.5)) / 1000
    np.testing.assert_allclose(out, np.broadcast_to(want[:, None, None], (10, 10, 10)), atol=1e-3)


def test_scale_is_the_percentile_of_the_foreground():
    voxels, affine = ball()
    one = volumes.apply(recipe("quick40"), voxels, affine)
    other = volumes.apply(recipe("quick40"), voxels * 321, affine)
    np.testing.assert_allclose(one.astype(float), other.astype(float), atol=2e-3)
    assert 0.95 < np.percentile(one[one > 0.3].astype(float), 99) < 1.02


def good(tmp_path):
    voxels, affine = ball()
    return save(tmp_path / "good.nii.gz", voxels, affine).read_bytes()


def bad_files(tmp_path):
    voxels, affine = ball()
    whole = good(tmp_path)
    raw = gzip.decompress(whole)

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    nan, infinite, flat = voxels.copy(), voxels.copy(), np.full_like(voxels, 7)
    nan[3, 3, 3], infinite[1, 2, 3] = np.nan, np.inf
    singular = bytearray(raw)
    singular[252:256] = (0).to_bytes(2, "little") + (1).to_bytes(2, "little")  # qform unset, sform set
    singular[280:296] = bytes(16)  # its first row
    nowhere = bytearray(raw)
    nowhere[252:256] = bytes(4)
    return {
        "a damaged image": write("cut.nii.gz", whole[: len(whole) // 2]),
        "damaged image|no NIfTI image": write("short.nii", raw[:10_000]),
        "no NIfTI image": write("text.nii.gz", b"subject,age\n1,2\n"),
        "no NIfTI image \\(": write("empty.nii.gz", b""),
        "expected one 3D image": save(tmp_path / "4d.nii", np.stack([voxels] * 2, -1), affine),
        "1 voxels that are NaN": save(tmp_path / "nan.nii", nan, affine),
        "NaN or infinite": save(tmp_path / "inf.nii", infinite, affine),
        "the value 7 in every voxel": save(tmp_path / "flat.nii", flat, affine),
        "the value 0 in every voxel": save(tmp_path / "zero.nii", flat * 0, affine),
        "no affine": write("none.nii", bytes(nowhere)),
        "singular": write("singular.nii", bytes(singular)),
    }


def test_every_kind_of_bad_file_gets_one_line_that_names_it(tmp_path):
    for message, path in bad_files(tmp_path).items():
        with pytest.raises(ScanError, match=message) as caught:
            volumes.read(path)
        assert str(caught.value).startswith(f"{path}: found ")
        assert "; expected " in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_last_axis_of_one_is_no_series(tmp_path):
    voxels, affine = ball()
    found, _ = volumes.read(save(tmp_path / "a.nii", voxels[..., None], affine))
    np.testing.assert_array_equal(found, voxels)


def test_nothing_above_zero_and_spikes_are_refused():
    voxels, affine = ball()
    with pytest.raises(ScanError, match="no voxel above zero"):
        volumes.apply(recipe("quick40"), -voxels, affine)
    voxels[30, 35, 32] = 1e12
    with pytest.raises(ScanError, match="without such spikes"):
        volumes.apply(recipe("quick40"), voxels, affine)


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match="expected one of"):
        recipe("paper81")


def test_meaningless_geometry_and_types_are_refused(tmp_path):
    voxels, affine = ball()
    for scale, message in ((1000.0, "voxels of 2e\\+03"), (0.01, "voxels of 0.02 x")):
        with pytest.raises(ScanError, match=message):
            volumes.read(save(tmp_path / "a.nii", voxels, affine @ np.diag([scale] * 3 + [1])))
    with pytest.raises(ScanError, match="values of type complex64"):
        volumes.read(save(tmp_path / "c.nii", voxels.astype(np.complex64), affine))
    with pytest.raises(ScanError, match="voxels with a signal"):
        volumes.apply(recipe("quick40"), voxels[:, :, 32:33], affine)


def test_a_mask_is_no_image():
    voxels, affine = ball()
    mask = (voxels > 0).astype(np.float32) * 5
    mask[30, 35, 32] = 6
    with pytest.raises(ScanError, match="a foreground of 5 to 5 almost everywhere"):
        volumes.apply(recipe("quick40"), mask, affine)


def test_every_kind_of_nifti_is_read_and_no_other_format(tmp_path):
    voxels, affine = ball()
    for name, kind in (("two.nii", nib.Nifti2Image), ("pair.img", nib.Nifti1Pair)):
        image = kind(voxels, affine)
        image.set_sform(affine, code="scanner")
        nib.save(image, tmp_path / name)
        found, found_affine = volumes.read(tmp_path / name)
        np.testing.assert_array_equal(found, voxels)
        np.testing.assert_allclose(found_affine, affine)
    nib.save(nib.MGHImage(voxels, affine), tmp_path / "a.mgz")
    with pytest.raises(ScanError, match=r"no NIfTI image \(MGHImage\)"):
        volumes.read(tmp_path / "a.mgz")


def test_metres_are_told_as_voxel_sizes(tmp_path):
    voxels, affine = ball()
    with pytest.raises(ScanError, match=r"voxels of 0\.002 x 0\.002 x 0\.002 mm; expected 0\.1 to 20 mm"):
        volumes.read(save(tmp_path / "a.nii", voxels, affine @ np.diag([0.001] * 3 + [1])))


def oriented(path, voxels, sform, qform):
    """Write a file whose two orientations are given; None for one that is unset."""
    image = nib.Nifti1Image(voxels, None)
    image.set_sform(sform, int(sform is not None))
    image.set_qform(qform, int(qform is not None))
    nib.save(image, path)
    return path


def about_z(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def test_two_orientations_that_contradict_each_other_are_refused(tmp_path):
    voxels, affine = ball()
    mirror = np.diag([-1.0, 1, 1, 1])
    for sform, qform, message in (
        (affine, mirror @ affine, "an sform of axes RAS and a qform of axes LAS, up to 180 degrees apart"),
        (mirror @ affine, affine, "an sform of axes LAS and a qform of axes RAS, up to 180 degrees apart"),
        # The first axis of the voxels points forward, the second to the left.
        (affine, about_z(90) @ affine, "an sform of axes RAS and a qform of axes ALS, up to 90 degrees apart"),
    ):
        path = oriented(tmp_path / "a.nii", voxels, sform, qform)
        with pytest.raises(ScanError, match=message) as caught:
            volumes.read(path)
        assert str(caught.value).endswith("keep the right one: fslorient -copysform2qform or -copyqform2sform")
        assert "\n" not in str(caught.value)


def test_which_orientation_is_used_is_told(tmp_path):
    voxels, affine = ball()
    aligned = about_z(40) @ affine  # as a program writes that aligned a tilted head to a template
    for sform, qform, want, told in (
        (aligned, affine, aligned, "sform"),
        (affine, None, affine, "sform"),
        (None, affine, affine, "qform"),
    ):
        path = oriented(tmp_path / "a.nii", voxels, sform, qform)
        np.testing.assert_allclose(volumes.read(path)[1], want, atol=1e-4)
        assert volumes.affine_from(path) == told
    raw = bytearray(oriented(tmp_path / "a.nii", voxels, affine, affine).read_bytes())
    raw[256:264] = np.array([1.0, 1.0], "<f4").tobytes()  # no unit quaternion has two parts of 1
    (tmp_path / "b.nii").write_bytes(raw)
    np.testing.assert_allclose(volumes.read(tmp_path / "b.nii")[1], affine)
    assert volumes.affine_from(tmp_path / "b.nii") == "sform; the qform is no rotation"


def test_a_compressed_file_is_read_to_its_checksum(tmp_path):
    whole = good(tmp_path)
    raw = gzip.decompress(whole)
    other = bytearray(raw)
    other[len(raw) // 2] ^= 0x40
    for damaged, message in (
        (whole[:-8], "end-of-stream"),
        (whole[:-8] + bytes(4) + whole[-4:], "CRC"),
        (whole[:-4] + bytes(4), "length"),
        (gzip.compress(bytes(other))[:-8] + whole[-8:], "CRC"),
    ):
        (tmp_path / "a.nii.gz").write_bytes(damaged)
        with pytest.raises(ScanError, match=rf"a damaged image \(.*{message}.*copy it again"):
            volumes.read(tmp_path / "a.nii.gz")


def test_little_behind_the_voxels_is_no_damage_and_much_is_never_kept(tmp_path, monkeypatch):
    whole = good(tmp_path)
    raw = gzip.decompress(whole)
    longer = tmp_path / "a.nii.gz"
    longer.write_bytes(gzip.compress(raw + b"x" * 1000))
    np.testing.assert_array_equal(volumes.read(longer)[0], volumes.read(tmp_path / "good.nii.gz")[0])
    monkeypatch.setattr(volumes, "_MOST_BEHIND_MIB", 2)
    longer.write_bytes(gzip.compress(raw + bytes(3 << 20)))
    with pytest.raises(ScanError, match=r"a damaged image \(more than 2 MiB behind its voxels\)"):
        volumes.read(longer)
