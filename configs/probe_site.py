"""Which site a scan comes from: the task of a linear probe for what a network's features hold of the scanner.

    jaxneuro probe runs/ad --config configs/probe_site.py --config.data.path=data/adni

The less it tells, the less the network holds of the scanner. Sites differ in who is scanned there, too, and features
of age, sex or disease name a site by these; `task.only=('CN',)` probes healthy people alone. Sites that no training
scan has, such as those held out as fold ood, cannot be named and are left out, counted. Trained as it stands, by
jaxneuro train, it is a network that names sites, to see how much a scan can say.
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the experiment."""
    config = common.get_config()
    config.task.update(name="site", kind="multiclass", target="site", classes=("*",), ignore=(), only=())
    return config
