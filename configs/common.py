"""Defaults of every experiment. A config file starts from these and says what it changes."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the defaults; a field that a config does not name keeps its value here."""
    config = ml_collections.ConfigDict()
    config.seed = 0

    config.data = ml_collections.ConfigDict(
        {
            "path": "data/shards",  # folder that `jaxneuro prepare` made
            "batch_size": 8,  # over all devices
            "fraction": 1.0,  # share of the training subjects
            "normalise": "brain",  # z-score over the brain; "volume" over all voxels; "none"
            "threads": 4,
            "prefetch": 4,  # batches read ahead
        }
    )
    config.task = ml_collections.ConfigDict(
        {
            "name": "ad",
            "kind": "binary",  # "binary", "multiclass" or "regression"
            "target": "diagnosis",  # column of the manifest
            "classes": ("CN", "AD"),
            "ignore": ("PD",),  # labels known and not part of the task
            "only": (),  # keep only these diagnoses
        }
    )
    # Further keys are keywords of the model, such as drop_rate or dtype.
    config.model = ml_collections.ConfigDict({"name": "densenet121"}, sort_keys=False)
    config.augment = ml_collections.ConfigDict({"flip": {"probability": 0.5}, "shift": {"voxels": 2}})
    config.optimizer = ml_collections.ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 3e-4,
            "weight_decay": 0.05,
            "momentum": 0.9,  # of sgd
            "schedule": "cosine",
            "warmup_epochs": 2.0,
            "clip": 1.0,
        }
    )
    config.training = ml_collections.ConfigDict(
        {"epochs": 30, "evaluate_every": 1, "log_every": 10, "keep": 2}  # epochs, epochs, steps, checkpoints
    )
    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1, "model": 1})
    # A misspelt key fails by name; models and views take keys of their own.
    config.lock()
    config.model.unlock()
    config.augment.unlock()
    return config
