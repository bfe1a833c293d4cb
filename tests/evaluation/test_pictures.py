"""Pictures of maps: what is filled, what is outlined, in grey too; what a report is told of them."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from jaxneuro.errors import InputError
from jaxneuro.evaluation import occlusion
from jaxneuro.evaluation.maps import pictures
from jaxneuro.evaluation.occlusion import Settings


def drawn(path, values, **keywords):
    """Draw values in a box of a brain without structure; return the picture [height, width], grey, 0 to 255."""
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -46
    brain = np.zeros((24, 24, 24), bool)
    brain[2:-2, 2:-2, 2:-2] = True
    behind = nib.Nifti1Image(np.where(brain, 1.0, 0.0).astype(np.float32), affine)
    image = nib.Nifti1Image(values.astype(np.float32), affine)
    pictures.Drawing(image, behind, brain, "of a test", **keywords).save(path)
    return np.asarray(Image.open(path).convert("L"), float)


def test_below_zero_is_an_outline_and_above_is_filled(tmp_path):
    values = np.zeros((24, 24, 24))
    values[6:12, 6:12, 6:12] = 1.0
    alone = drawn(tmp_path / "a.png", values, signed=True)
    values[14:20, 14:20, 6:12] = -0.9
    both = drawn(tmp_path / "b.png", values, signed=True)
    unsigned = drawn(tmp_path / "c.png", values, signed=False)
    assert alone.shape == both.shape == unsigned.shape
    changed = (np.abs(both - alone) > 20).mean()
    assert 0.0005 < changed < 0.02  # lines, no areas
    np.testing.assert_array_equal(unsigned, alone)
    place = np.zeros((24, 24, 24), bool)
    place[6:9, 6:12, 6:12] = True
    assert 0.0003 < (np.abs(drawn(tmp_path / "d.png", values, signed=False, place=place) - unsigned) > 20).mean() < 0.02


def test_nothing_to_draw_is_drawn(tmp_path):
    assert drawn(tmp_path / "a.png", np.zeros((24, 24, 24)), signed=True).std() > 0


def test_a_gallery_says_what_the_pictures_show(explained_run, tmp_path):
    assert pictures.gallery(tmp_path) == []
    settings = Settings(patch=(8,), stride=(8,))
    told = occlusion.occlusion(explained_run, settings, scans=1, untrained=True, out=tmp_path / "occlusion-ad")
    found = pictures.gallery(tmp_path)
    assert [p.path.name for p in found] == [
        f"{network}{group}.png" for network in ("", "untrained-") for group in ("all", "class-CN", "class-AD")
    ]
    assert all(p.path.is_file() for p in found)
    assert found[2].title == "Occlusion, logit of AD: scans of AD (n = 1)"
    assert found[5].title.endswith(", untrained network")
    truth = told["groups"]["class-AD"]["truth"]
    assert f"{truth['trained']['group_map']['share']:.0%} of the map's positive values" in found[2].caption
    assert f"AUC of {truth['untrained']['group_map']['auc']:.2f}" in found[5].caption
    assert "Patches of 8 x 8 x 8 voxels, 8 x 8 x 8 apart" in found[0].caption
    assert pictures.gallery(tmp_path / "occlusion-ad") == found
    (tmp_path / "occlusion-ad/all.png").unlink()
    assert len(pictures.gallery(tmp_path)) == 5
    (tmp_path / "occlusion-ad/occlusion.json").write_text("{")
    with pytest.raises(InputError, match=r"occlusion\.json"):
        pictures.gallery(tmp_path)
