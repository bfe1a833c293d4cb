"""Brain age of controls, DenseNet121, L1 loss, from scratch or from pre-trained weights (paper, Table 3).

    jaxneuro prepare BIDS --out data/shards --recipe paper80
    jaxneuro train --config configs/finetune_age.py --workdir runs/age
    jaxneuro train --config configs/finetune_age.py --workdir runs/age_ukb --config.init.path=runs/ukb_contrastive
    jaxneuro evaluate runs/age

The paper reports mean absolute errors on ADNI (1,511 training scans at 80^3) and, without further training, on OASIS:
from scratch 4.837 and 8.306 years, after contrastive pre-training on UK Biobank 3.582 and 5.701. Not run here at that
size; configs/demo_age.py is the same experiment, small.

Age as soft bins instead of L1 (Peng et al. 2021): --config.objective.regression=soft
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.task.update(name="age", kind="regression", target="age", classes=(), ignore=(), only=("CN",))
    config.training.update(epochs=30, patience=30)
    return config
