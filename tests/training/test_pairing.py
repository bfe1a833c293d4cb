"""Which networks an objective can train: all that make sense by one override, the others refused with the reason."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import models
from jaxneuro.errors import InputError
from jaxneuro.objectives import contrastive
from jaxneuro.training import experiment, steps
from tests.conftest import box_scans, write_dataset

BACKBONES = ("swin_t", "vit_b16", "minit", "nit", "densenet121", "tiny_densenet")
PRETRAINING = ("pretrain_supervised", "pretrain_contrastive", "pretrain_masked")
NO_PATCHES = {("pretrain_masked", name) for name in ("densenet121", "tiny_densenet")}


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    """A dataset of a size that every network serves."""
    return write_dataset(tmp_path_factory.mktemp("cubes") / "d", box_scans(), shape=(32, 32, 32))


@pytest.fixture
def build(smoke, cubes):
    return lambda name, model, *more: experiment.build(
        smoke(f"model.name={model}_testing", "data.batch_size=2", *more, name=name, data=cubes)
    )


def loss_shape(parts):
    """Trace one loss: shapes and names fit from the volume to the scalar; nothing is computed."""
    keys = {"params": jax.random.key(0)}
    inputs = {k: jnp.zeros(x.shape, x.dtype) for k, x in models.inputs(parts.model).items()}
    volume = jax.ShapeDtypeStruct((2, *parts.dataset.shape), jnp.float32)
    batch = {"volume": volume, "second": volume} | {k: jax.ShapeDtypeStruct((2,), jnp.float32) for k in parts.labels}

    def loss(batch):
        variables = parts.model.init(keys, **inputs, train=False)
        stats = variables.get("batch_stats", {})
        return parts.objective.loss(parts.model.apply, variables["params"], stats, batch, jax.random.key(0))

    return jax.eval_shape(loss, batch)


@pytest.mark.parametrize("name", PRETRAINING)
@pytest.mark.parametrize("model", BACKBONES)
def test_every_backbone_with_every_objective_by_one_override(build, name, model):
    if (name, model) in NO_PATCHES:
        with pytest.raises(
            InputError, match=r"needs a network of patches; expected one of swin_t, .*vit_b16"
        ) as caught:
            build(name, model)
        assert "\n" not in str(caught.value)
        return
    parts = build(name, model)
    value, (metrics, _) = loss_shape(parts)
    assert (value.shape, value.dtype) == ((), jnp.float32)
    assert "loss" in metrics
    assert parts.objective.views == (2 if name == "pretrain_contrastive" else 1)


def test_an_autoencoder_needs_a_network_that_can_leave_patches_out(build):
    parts = build("pretrain_masked", "vit_b16", "objective.kind=mae")
    assert parts.described["name"] == "vit_b16_mae_testing"
    loss_shape(parts)
    for model in ("nit", "minit", "swin_t"):
        with pytest.raises(InputError, match=r"can leave some out; expected one of vit_b16"):
            build("pretrain_masked", model, "objective.kind=mae")


def test_the_projection_of_contrastive_pretraining_is_the_published_one(build):
    for model, last in (("densenet121", "norm5"), ("vit_b16", None)):
        parts = build("pretrain_contrastive", model)
        made = parts.described["settings"]
        assert (made["head_hidden"], made["num_outputs"]) == ((512,), 128)
        shapes = jax.eval_shape(
            lambda model=parts.model: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 32, 1)), train=False)
        )["params"]
        assert shapes["head"]["hidden0"]["kernel"].unbox().shape[1] == 512
        assert shapes["head"]["out"]["kernel"].unbox().shape == (512, 128)
        assert last not in shapes


def test_labels_of_proxies_are_numbers_and_missing_ones_nan(build, tmp_path, smoke):
    parts = build("pretrain_contrastive", "densenet121", "objective.proxies.sex=0.5", "objective.proxies.site=1.0")
    assert set(parts.labels) == set(parts.objective.labels) == {"age", "sex", "site"}
    ages = [s.age for s in parts.dataset.scans]
    np.testing.assert_allclose(parts.labels["age"], ages)
    codes = {(s.sex, int(c)) for s, c in zip(parts.dataset.scans, parts.labels["sex"], strict=True)}
    assert codes == {("F", 0), ("M", 1)}
    assert {(s.site, int(c)) for s, c in zip(parts.dataset.scans, parts.labels["site"], strict=True)} == {
        ("A", 0), ("B", 1), ("C", 2), ("D", 3)
    }  # fmt: skip
    # Every scan can be used, whatever its labels.
    assert sum(len(v) for k, v in parts.folds.items() if k == "train") > len(parts.scans("validation"))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("smoke", ("objective.name=dino",), r"objective.name: found 'dino'; expected one of supervised, contrastive"),
        ("smoke", ("objective.temperature=0.1",), r"found temperature for 'supervised'; expected among class_weights"),
        ("smoke", ("model.num_outputs=3",), r"model: found \['num_outputs'\]; expected none"),
        ("smoke", ("model.dtype=float8",), r"model.dtype: found 'float8'; expected one of float32, bfloat16"),
        ("smoke", ("objective.class_weights=even",), r"objective.class_weights: found 'even'; expected"),
        ("smoke", ("objective.regression=l3",), r"objective.regression: found 'l3'; expected"),
        ("smoke", ("objective.smoothing=1.5",), r"objective.smoothing: found 1.5; expected"),
        ("smoke", ("also.sex.kind=binary",), r"also.sex: found no target"),
        ("smoke", ("also.sex=5",), r"also.sex: found 5; expected keys such as also.sex.kind"),
        (
            "smoke",
            ("also.a.kind=regression", "also.a.target=age", "also.a.wieght=0.1"),
            "also.a: found wieght; expected among",
        ),
        (
            "smoke",
            ("also.a.kind=regression", "also.a.target=age", "also.a.weight=-3"),
            "also.a.weight: found -3; expected",
        ),
        ("smoke", ("also.a.kind=regression", "also.a.target=age", "also.a.weight=abc"), "also.a.weight: found 'abc'"),
        ("smoke", ("task.weight=-1.0",), r"task.weight: found -1.0; expected"),
        ("smoke", ("objective.name=contrastive", "objective.temperature=abc"), "objective.temperature: found 'abc'"),
        ("smoke", ("objective.name=contrastive", "objective.proxies.sex=abc"), "objective.proxies: found"),
        ("smoke", ("objective.name=contrastive", "objective.proxies=age"), "objective.proxies: found 'age'"),
        ("smoke", ("objective.name=masked", "objective.ratio=abc"), "objective.ratio: found 'abc'"),
        ("smoke", ("objective.name=masked", "objective.mask_size=8.0"), "objective.mask_size: found 8.0"),
        (
            "pretrain_masked",
            ("objective.background=skip", "data.normalise=volume"),
            "objective.background: found 'skip' with data.normalise 'volume'.*--config.data.normalise=brain",
        ),
        (
            "smoke",
            ("objective.name=masked", "objective.normalise_patches=no"),
            "objective.normalise_patches: found 'no'",
        ),
        ("smoke", ("objective.name=masked", "objective.loss=l3"), "objective.loss: found 'l3'"),
        ("smoke", ("also.ad.kind=binary", "also.ad.target=sex"), r"also: found 'ad', the name of the task itself"),
        ("pretrain_contrastive", ("objective.proxies.height=1.0",), r"objective.proxies: found \['height'\]"),
        ("pretrain_masked", ("objective.kind=beit",), r"objective.kind: found 'beit'; expected one of simmim, mae"),
        ("pretrain_masked", ("objective.ratio=0.999",), "objective.ratio"),
        ("pretrain_masked", ("model.name=vgg",), "unknown model 'vgg'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(smoke, cubes, name, overrides, message):
    settings = () if "model.name" in str(overrides) else ("model.name=vit_b16_testing",)
    with pytest.raises(InputError, match=message) as caught:
        experiment.build(smoke(*settings, *overrides, name=name, data=cubes))
    assert "\n" not in str(caught.value)


def test_several_tasks_are_learnt_from_all_scans_that_have_one(smoke, cubes):
    parts = experiment.build(
        smoke("also.age.kind=regression", "also.age.target=age", "also.age.only=('CN',)", "also.age.weight=0.5",
              "also.sex.kind=binary", "also.sex.target=sex", "also.sex.classes=('F','M')", data=cubes)
    )  # fmt: skip
    assert [t.name for t in parts.tasks] == ["ad", "age", "sex"]
    assert parts.described["settings"]["num_outputs"] == 3
    known = {k: np.isfinite(v) for k, v in parts.labels.items()}
    np.testing.assert_array_equal(known["age"], [s.diagnosis == "CN" for s in parts.dataset.scans])
    assert known["sex"].all()
    _, (metrics, _) = loss_shape(parts)
    assert set(metrics) == {"loss", "ad_loss", "age_loss", "sex_loss"}


def test_all_labels_of_the_training_scans_become_classes(smoke, cubes):
    parts = experiment.build(
        smoke("task.kind=multiclass", "task.target=site", "task.classes=('*',)", "task.ignore=()", data=cubes)
    )
    # Site D is held out: no training scan has it, so it is no class, and its scans are told.
    assert parts.tasks[0].classes == ("A", "B", "C")
    assert not parts.folds["ood"]
    assert any("site 'D' is neither" in reason for reason in parts.excluded)


def test_class_weights_follow_the_training_fold(smoke, cubes):
    config = smoke("objective.class_weights=balanced", "data.fraction=0.5", data=cubes)
    parts = experiment.build(config)
    train = parts.labels_of("train")["ad"]
    n = np.bincount(train.astype(int))
    for label in (0, 1):
        batch = {"volume": jnp.zeros((1, 1)), "ad": jnp.full((1,), float(label))}
        value, _ = parts.objective.loss(
            lambda v, x, **_: ((jnp.zeros((1, 1)), {}), {}), {}, {}, batch, jax.random.key(0)
        )
        np.testing.assert_allclose(value, np.log(2) * len(train) / (2 * n[label]), rtol=1e-5)


def test_age_as_soft_bins_spans_the_training_ages(smoke, cubes):
    config = smoke(
        "task.kind=regression", "task.target=age", "task.classes=()", "task.ignore=()", "objective.regression=soft",
        "objective.bin=5.0", data=cubes,
    )  # fmt: skip
    parts = experiment.build(config)
    ages = parts.labels_of("train")["ad"]
    bins = np.ceil(ages.max() / 5) - np.floor(ages.min() / 5)
    assert parts.described["settings"]["num_outputs"] == bins
    with pytest.raises(InputError, match=r"objective.bin: found 0.0"):
        experiment.build(smoke("objective.regression=soft", "objective.bin=0.0", "task.kind=regression",
                               "task.target=age", "task.classes=()", "task.ignore=()", data=cubes))  # fmt: skip


def age(smoke, cubes, *more):
    settings = ("task.name=age", "task.kind=regression", "task.target=age", "task.classes=()", "task.ignore=()")
    return smoke(*settings, *more, data=cubes)


def test_what_outputs_mean_is_that_of_the_run_that_settled_it(smoke, cubes):
    """Not of the labels at hand: a network tested on another study goes on meaning the same years."""
    whole = experiment.build(age(smoke, cubes))
    (described,) = whole.targets
    ages = whole.labels_of("train")["age"].astype(np.float64)
    assert described == {
        "name": "age", "kind": "regression", "target": "age", "unit": "years", "form": "l1",
        "mean": pytest.approx(ages.mean()), "scale": pytest.approx(ages.std()),
    }  # fmt: skip
    kept = {**described, "mean": 50.0, "scale": 4.0}
    parts = experiment.build(age(smoke, cubes, "data.fraction=0.3"), [kept])
    assert parts.targets == [kept]
    np.testing.assert_allclose(parts.objective.predict(jnp.array([[2.0]])), [[58.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "binary", "target": "diagnosis", "classes": ["CN", "AD"], "form": None}, "whose kind is 'binary'"),
        ({"form": "soft"}, "whose form is 'soft'; found 'l1'"),
        ({"target": "weight"}, "whose target is 'weight'; found 'age'"),
    ],
)
def test_a_kept_head_of_another_meaning_is_refused(smoke, cubes, change, message):
    kept = {"name": "x", "kind": "regression", "target": "age", "form": "l1", "mean": 60.0, "scale": 5.0, **change}
    with pytest.raises(InputError, match=message) as caught:
        experiment.build(age(smoke, cubes), [kept])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="that predicts"):
        experiment.build(age(smoke, cubes), [kept, kept])


def test_classes_of_a_kept_head_stay_in_their_order(smoke, cubes):
    kept = {"name": "ad", "kind": "binary", "target": "diagnosis", "classes": ["AD", "CN"]}
    with pytest.raises(InputError, match=r"whose classes is \['AD', 'CN'\]; found \['CN', 'AD'\]"):
        experiment.build(smoke(data=cubes), [kept])
    sites = {"name": "ad", "kind": "multiclass", "target": "site", "classes": ["B", "A", "C"]}
    settings = ("task.kind=multiclass", "task.target=site", "task.classes=('*',)", "task.ignore=()")
    assert experiment.build(smoke(*settings, data=cubes), [sites]).tasks[0].classes == ("B", "A", "C")


def test_no_scan_of_the_second_view_shares_a_key_with_the_first():
    keys = []

    def views(key, volume):
        keys.extend([key, *jax.random.split(key, len(volume))])
        return volume

    objective = contrastive.build(proxies={})
    steps.seen(objective, {"volume": jnp.zeros((40, 1, 1, 1, 1))}, jax.random.key(3), lambda x: x, views)
    assert len({tuple(np.asarray(jax.random.key_data(k)).tolist()) for k in keys}) == 82
