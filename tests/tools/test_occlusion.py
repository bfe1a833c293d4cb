"""The comparison of occlusion maps: each side makes the same map; no times."""

import pytest

pytest.importorskip("torch", reason="the parity extra is not installed (Python 3.12 and later)")

from tools import occlusion


@pytest.mark.filterwarnings("ignore")  # MONAI's own
@pytest.mark.parametrize("name", ["tiny_densenet_testing", "vit_b16_testing"])
def test_every_side_makes_the_same_map(name):
    found = occlusion.compare(name, 16, 8, 4, batch=5, rounds=2, threads=1, device="cpu")
    assert found["positions"] == 27
    assert {len(seconds) for seconds in found["seconds"].values()} == {2}
    assert {"ours", "ours, every patch", "monai"} <= set(found["difference"])
    assert ("ours, all layers" in found["difference"]) == name.startswith("tiny_densenet")
    # Relative to the map's largest value, which is a fraction of the outputs that it is a difference of.
    assert max(found["difference"].values()) < 1e-3
