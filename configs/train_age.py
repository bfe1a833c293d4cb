"""Brain age of controls, DenseNet121 from scratch, L1 loss (paper, Table 3, row "3D DenseNet 121 CNN, Scratch").

    jaxneuro prepare BIDS --out data/shards --recipe paper80
    jaxneuro train --config configs/train_age.py --workdir runs/age
    jaxneuro evaluate runs/age

The paper reports a mean absolute error of 4.837 years on ADNI and 8.306 on OASIS without further training, from 1,511
training scans at 80^3. Not run here at that size; `configs/demo_age.py` is the same experiment, small.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.task.update(name="age", kind="regression", target="age", classes=(), ignore=(), only=("CN",))
    return config
