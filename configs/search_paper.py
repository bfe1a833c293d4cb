"""The paper's search for hyper-parameters, on AD against controls, for NiT: the network that it varies most of.

    jaxneuro search --config configs/search_paper.py --out runs/search-nit --data data/adni80
    jaxneuro search --config configs/search_paper.py --out runs/search-nit --data data/adni80 --list

The paper (section 2, "experimental setup") says: "We performed a random search to select hyperparameter values,
including the learning rate {2e-3 to 1e-5}, optimizer {SGD, ADAM, ADAM with weight decay}, weight decay between 0 and
0.2, batch size {1, 4, 8, 16}, and attention heads {4, 8, 12}, encoder layers {3, 6, 8} for the NiT, MiNiT." Models were
fine-tuned for 30 epochs, mostly. It does not say how many trials were made, how rates were drawn (here by powers of
ten), nor on which scans they were compared (here validation, always).

The method here is the paper's, "random"; "pruned" stops what is poorer than the median trial and draws near what did
well: copy the file and say so. For other networks copy it, too. MiNiT takes the same keys, and so does the ViT named
vit_b16_w768, for 4, 8 and 12 divide its width of 768; DenseNets have neither heads nor layers to choose. Adam's decay
is torch's, added to the gradient; AdamW's is apart. Not run here at that size.
"""

from jaxneuro.study.search_spec import Choice, LogUniform, Search, Uniform


def get_config() -> Search:
    """Return the search."""
    return Search(
        title="AD classification by NiT, the paper's ranges",
        config="configs/finetune_ad.py",
        overrides=("model.name=nit",),
        space={
            "optimizer.learning_rate": LogUniform(1e-5, 2e-3),
            "optimizer.name": Choice(("sgd", "adam", "adamw")),
            "optimizer.weight_decay": Uniform(0.0, 0.2),
            "data.batch_size": Choice((1, 4, 8, 16)),
            "model.heads": Choice((4, 8, 12)),
            "model.depth": Choice((3, 6, 8)),
        },
        trials=40,
        method="random",
    )
