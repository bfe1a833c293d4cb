"""Alzheimer's disease against controls, DenseNet121, from scratch or from pre-trained weights (paper, Table 2).

    jaxneuro prepare BIDS --out data/shards --recipe paper80
    jaxneuro train --config configs/finetune_ad.py --workdir runs/ad                        # from scratch
    jaxneuro train --config configs/finetune_ad.py --workdir runs/ad_ukb --config.init.path=runs/ukb_contrastive
    jaxneuro train --config configs/finetune_ad.py --workdir runs/ad_swin --config.init.path=weights/swin \
        --config.model.name=swin_t --config.optimizer.layer_decay=0.8
    jaxneuro evaluate runs/ad

The paper fine-tunes end to end for 30 epochs and reports ROC-AUC on ADNI (2,577 training scans at 80^3) and, without
further training, on OASIS: DenseNet121 from scratch 0.901 (0.030) and 0.828 (0.024), after contrastive pre-training on
UK Biobank 0.912 (0.005) and 0.841 (0.006); Swin-T from scratch 0.849 and 0.833, from Kinetics 0.924 and 0.850. Not run
here at that size: no such scans may be redistributed. tools/pretraining.py makes the same comparison, small, on
synthetic scans; configs/demo_ad.py is this experiment alone, small.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.training.update(epochs=30, patience=30)
    return config
