"""What two runs are compared by: states, best weights and the log, to the last bit."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp

#: How fast it went differs between two runs that learn the same.
TIMED = ("train/volumes_per_second", "train/waiting_for_data")


def logged(workdir):
    """Return the lines of the log without what was timed."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]


def saved(workdir):
    """Return the last state and the best weights, read by Orbax alone: {name: (step, arrays, plain values)}."""
    found = {}
    for name, arrays, values in (("checkpoints", "state", "position"), ("best", "weights", "metrics")):
        with ocp.CheckpointManager(workdir.absolute() / name) as manager:
            step = manager.latest_step()
            # As NumPy: saved by several processes, it does not say itself where to put what.
            with ocp.StandardCheckpointer() as reader:
                tree = reader.metadata(workdir.absolute() / name / str(step) / arrays).item_metadata.tree
            like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)
            parts = ocp.args.Composite(**{arrays: ocp.args.StandardRestore(like), values: ocp.args.JsonRestore()})
            read = manager.restore(step, args=parts)
        found[name] = step, jax.tree.map(np.asarray, read[arrays]), read[values]
    return found


def assert_same_bits(a, b):
    """Compare two trees: names, kinds, shapes and every bit of the values."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert x.tobytes() == y.tobytes(), path


def assert_close(a, b, tolerance=1e-4):
    """Compare two trees of which one was summed in another order: names, shapes, and values to rounding."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert x.shape == y.shape, path
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=str(path))


def assert_same_run(a, b):
    """Compare two finished runs: last state, position, best weights and their scores, and the log."""
    one, other = saved(a), saved(b)
    for name in one:
        assert one[name][0] == other[name][0], name
        assert_same_bits(one[name][1], other[name][1])
        assert one[name][2] == other[name][2], name
    assert logged(a) == logged(b)
