"""Alzheimer's disease against controls, DenseNet121 from scratch (paper, Table 2, row "DenseNet121, Scratch").

    jaxneuro prepare BIDS --out data/shards --recipe paper80
    jaxneuro train --config configs/train_ad.py --workdir runs/ad
    jaxneuro evaluate runs/ad

The paper reports ROC-AUC 0.901 (0.030) on ADNI and 0.828 (0.024) on OASIS without further training, from 2,577
training scans at 80^3. Not run here at that size: no such scans may be redistributed. `configs/demo_ad.py` is the same
experiment, small, on synthetic scans, and says what to expect.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    return common.get_config()
