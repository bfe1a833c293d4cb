"""What training minimises. One file an objective, one signature:

    loss(apply, params, batch_stats, batch, key) -> (scalar, (dict of metrics, batch_stats))

`apply` is `model.apply`; `batch` holds `volume` [b, d, h, w, c] as the network is to see it.
"""
