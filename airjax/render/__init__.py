"""Renderers: `dense` is the oracle, `additive` the fast exact sum over tile lists made by `lists`."""
