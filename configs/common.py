"""Defaults of every experiment. A config file starts from these and says what it changes."""

import ml_collections

#: The views of contrastive pre-training (Dufumier et al. 2021), drawn anew for each of the two.
CONTRASTIVE_VIEWS = {
    "flip": {"axis": -1, "probability": 0.5},
    "blur": {"low": 0.1, "high": 1.0, "probability": 0.5},
    "noise": {"low": 0.1, "high": 1.0, "probability": 0.5},
    "cutout": {"share": 0.25, "probability": 0.5},
    "crop": {"share": 0.75, "probability": 0.5},
}


def get_config() -> ml_collections.ConfigDict:
    """Return the defaults; a field that a config does not name keeps its value here."""
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.data = ml_collections.ConfigDict(
        {
            "path": "data/shards",  # folder that `jaxneuro prepare` made
            "batch_size": 8,  # over all devices
            "fraction": 1.0,  # share of the training subjects
            "leave_out": (),  # sites that are not learnt from: fold ood is then who was seen there, and nobody else
            "normalise": "brain",  # z-score over the brain; "volume" over all voxels; "video"; "none"
            "source": "shards",  # read as the run goes; "memory", "device": kept there; "synthetic": noise, for timing
            "threads": 4,
            "prefetch": 4,  # batches read ahead
        }
    )
    config.task = ml_collections.ConfigDict(
        {
            "name": "ad",
            "kind": "binary",  # "binary", "multiclass" or "regression"
            "target": "diagnosis",  # column of the manifest
            "classes": ("CN", "AD"),  # ("*",): every label that the training scans have
            "ignore": ("PD",),  # labels known and not part of the task
            "only": (),  # keep only these diagnoses
            "weight": 1.0,  # of its loss, beside those of `also`
        }
    )
    # Tasks learnt along with it, by name: kind, target, and what else a task has.
    config.also = ml_collections.ConfigDict()
    # "supervised", "contrastive" or "masked", and its keywords (docs/training.md).
    config.objective = ml_collections.ConfigDict({"name": "supervised"}, sort_keys=False)
    # Further keys are keywords of the model, such as drop_rate or dtype.
    config.model = ml_collections.ConfigDict({"name": "densenet121"}, sort_keys=False)
    config.init = ml_collections.ConfigDict(
        {
            "path": "",  # a run, or what `jaxneuro convert` wrote; "" begins from scratch
            "head": "fresh",  # or "keep"
            "fresh": (),  # patterns of leaves that begin afresh, too
            "ignore": (),  # patterns of leaves to leave out
            "channels": "",  # "sum" or "mean": kernels of three channels for volumes of one
            "resample": True,  # positions to another grid of patches
        }
    )
    config.augment = ml_collections.ConfigDict({"flip": {"probability": 0.5}, "shift": {"voxels": 2}})
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 3e-4,
            "weight_decay": 0.05,
            "momentum": 0.9,  # of sgd
            "beta1": 0.9,  # of adam and adamw
            "beta2": 0.999,
            "schedule": "cosine",
            "warmup_epochs": 2.0,
            "final_rate": 0.0,  # share of the rate at the end of the cosine
            "clip": 1.0,
            "layer_decay": 1.0,  # factor on the rate for each layer away from the head
            "freeze": (),  # patterns of parameters that stay as they are
            "average": 0.0,  # decay of a running average of the parameters, which is then what is tested; 0: none
        }
    )
    config.training = ml_collections.ConfigDict(
        {
            "epochs": 30,
            "patience": 0,  # epochs without a better validation score before it stops; 0: never
            "evaluate_every": 1,  # epochs
            "log_every": 10,  # steps
            "keep": 2,  # checkpoints
            "accumulate": 1,  # parts that a batch is taken in, one after the other, to save memory
        }
    )
    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1, "model": 1})
    # A misspelt key fails by name; models, views and objectives take keys of their own.
    config.lock()
    for part in (config.model, config.augment, config.objective, config.also):
        part.unlock()
    return config
