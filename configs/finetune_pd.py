"""Parkinson's disease against controls, DenseNet121, from scratch or from pre-trained weights (paper, Table 3).

    jaxneuro prepare scans.csv --out data/taiwan --recipe paper80
    jaxneuro train --config configs/finetune_pd.py --workdir runs/pd --config.data.path=data/taiwan
    jaxneuro train --config configs/finetune_pd.py --workdir runs/pd_ukb --config.data.path=data/taiwan \
        --config.init.path=runs/ukb_contrastive
    jaxneuro evaluate runs/pd

The paper reports ROC-AUC 0.513 from scratch and 0.704 after contrastive pre-training on UK Biobank, on 47 test scans:
an interval of about 0.15 to each side. Not run here on patients: the scans are private.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.task.update(name="pd", classes=("CN", "PD"), ignore=("AD",))
    config.training.update(epochs=30, patience=30)
    return config
