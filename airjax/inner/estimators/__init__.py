"""Estimators of the outer gradient: how a start, and the learning rates, should change so that refinement ends better.

Letters: G_k the state after k inner steps from the start G_0 (`airjax.inner.refine`), L the inner loss, M the outer
loss, J_k = dG_k / dG_0, K the last step that counts, P the cost of one inner step (a gradient of L).

All of them estimate the gradient of

  O(G_0, rates) = sum over i of weights_i * M(G_k_i),     k_i the anchors, weights that sum to 1,

which is sum over i of weights_i * J_k_i^T grad M(G_k_i): they differ in what they make of J. A network that predicts
the start, G_0 = f(theta), is trained with the vector-Jacobian product of f (`surrogate`).

  name               what stands for J_k                                   cost (P)         rates
  zero_step          no step is taken: grad M(G_0), vanilla training       1                0
  first_order        the identity, at one step                             K + 1            0
  multi_anchor       the identity, at every s-th step of a random number   E[K] (1 + 1/s)   0
  budget             the identity, at the steps that a user means to take  K + anchors      0
  meta_sgd           as budget                                             K + anchors      path held fixed
  reptile            none: the way that the loop took                      K                0
  unrolled           exact                                                 about 4 K        exact
  truncated          exact over the last w steps, identity before          K + 4 w          exact over w
  implicit           that of a converged loop, by conjugate gradients      K + 2 iterations 0
  implicit_neumann   the same, by a Neumann series                         K + 2 iterations 0
  es                 none: differences of O under random changes           2 K pairs        estimated
  pes                the same, of windows that remember their changes      2 K pairs        estimated
  finite_difference  none: differences of O, one coordinate at a time      2 K numbers      exact to rounding

("rates": the gradient returned for them.) An estimator is a small frozen dataclass, a static argument. A new one is a
subclass of `Estimator` with a formula and a name; training, the study of estimators and refinement curves take it from
the registry or as it is. Nothing here knows what a state is made of.
"""

# ruff: noqa: F401, I001  (imported for others; the registry gets the order of the table above)
from airjax.inner.estimators.base import ESTIMATORS, Anchored, Estimator, OuterGradient, Problem
from airjax.inner.estimators.base import clip_rows, estimator, outer_gradient, register, surrogate
from airjax.inner.estimators.first_order import Budget, FirstOrder, MetaSgd, MultiAnchor, Reptile, ZeroStep
from airjax.inner.estimators.exact import Truncated, Unrolled
from airjax.inner.estimators.implicit import Implicit, Neumann
from airjax.inner.estimators.evolution import EvolutionStrategies, FiniteDifference, PersistentES
