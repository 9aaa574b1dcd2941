"""ReKD: classical distillation split into the top-K categories (TISD) and the tail (NTID), each with its own weight.

Derived from the abstract of *Improving Knowledge Distillation via Head and Tail Categories* (DOI
10.1109/tcsvt.2023.3325814), which prints no equations; see docs/method.md for what is quoted and what is derived.
"""

from __future__ import annotations

from mmrazor.registry import MODELS

from rekd_det.models.losses.base import LogitLoss, check_choice, check_number, check_tail, check_top_k
from rekd_det.models.losses.kernels import KDSpec, Part
from rekd_det.structures.logit_meaning import LogitMeaning

#: a top-K set that holds a share of the mass has at most so many categories
MAX_TOP_K = 16


@MODELS.register_module()
class ReKDLoss(LogitLoss):
    """``alpha * TISD + beta * NTID``, times ``tau**2``.

    Classical distillation is ``TISD + w * NTID``, where NTID compares what teacher and student say about the tail given
    that it is the tail, and w is the teacher's probability of the tail. ReKD replaces w by beta.

    With a softmax NTID is ``KL_tail``, the KL renormalised inside the tail, and w is ``1 - P``. TISD is, by ``tisd``:

    * 'joint': the KL over K + 1 buckets, ``KL_mass + P * KL_top``;
    * 'within': the KL renormalised inside the top-K set, ``KL_top`` (plus ``mass_weight * KL_mass``).

    With sigmoids NTID is the KL of the tail's Bernoullis given that some category of the tail is present, and w is the
    probability of that, ``A``. TISD is, by ``tisd``:

    * 'joint': the Bernoulli KLs of the top-K set and of the bucket "some category of the tail is present";
    * 'within': the Bernoulli KLs of the top-K set (plus ``mass_weight`` times the bucket's);
    * 'split': as 'within', and NTID is the sum of the Bernoulli KLs of the tail. With ``alpha = beta = 1`` it is
      classical distillation whatever K is; for comparison.

    Args:
        top_k: K, the size of a row's top-K set, 1 <= K < number of logits (K = 1 where a sigmoid head has one category:
            there is no tail then, and TISD is classical distillation). Or a share between 0 and 1, as a float: each
            row's set is the smallest that holds this share of its mass, at most 16 categories. A row's mass is its
            softmax, or the sum of its sigmoids.
        alpha: weight of TISD, >= 0.
        beta: weight of NTID, >= 0.
        tau: temperature.
        tisd: 'joint', 'within' or 'split' (sigmoids only).
        select_by: whose top-K logits are the set, 'teacher' or 'student'.
        activation: see :class:`LogitLoss`.
        mass_weight: weight of the mass term, in addition to the top-K set; only with ``tisd='within'``.
        gamma: exponent of a factor ``|p_teacher - p_student|`` on each Bernoulli KL, taken as a constant; only with
            ``activation='sigmoid', tisd='split'``.
        reduction: see :class:`LogitLoss`.
        loss_weight: see :class:`LogitLoss`.
        backend: see :class:`LogitLoss`.
        foreground_only: keep the background's logit out of the top-K set, so that it is in the tail. Only for heads
            that have one (softmax, or ``activation='implicit_bg'``).
        standardize: see :class:`LogitLoss`.

    Raises:
        ValueError: for options that have no meaning, alone or together.
    """

    #: which of its parts the loss has
    parts: tuple[str, ...] = ("loss_tisd", "loss_ntid")

    def __init__(
        self,
        top_k: float = 5,
        alpha: float = 1.0,
        beta: float = 1.0,
        tau: float = 1.0,
        tisd: str = "joint",
        select_by: str = "teacher",
        activation: str = "softmax",
        mass_weight: float = 0.0,
        gamma: float = 0.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        backend: str = "auto",
        foreground_only: bool = False,
        standardize: bool = False,
    ) -> None:
        super().__init__(tau, activation, reduction, loss_weight, backend, standardize)
        name = type(self).__name__
        check_top_k(name, top_k, share=True)
        check_number(name, "alpha", alpha, least=0.0)
        check_number(name, "beta", beta, least=0.0)
        check_choice(name, "tisd", tisd, ("joint", "within", "split"))
        check_choice(name, "select_by", select_by, ("teacher", "student"))
        check_number(name, "mass_weight", mass_weight, least=0.0)
        check_number(name, "gamma", gamma, least=0.0)
        if tisd == "split" and activation != "sigmoid":
            raise ValueError(f"{name}: tisd='split' needs activation='sigmoid', got activation={activation!r}")
        if gamma and tisd != "split":
            raise ValueError(
                f"{name}: gamma needs activation='sigmoid' and tisd='split', got activation={activation!r} and "
                f"tisd={tisd!r}"
            )
        if mass_weight and tisd != "within":
            raise ValueError(
                f"{name}: mass_weight needs tisd='within'; tisd='joint' already holds the mass term with weight alpha"
            )
        if activation != "sigmoid" and tisd == "within" and top_k == 1 and not mass_weight and alpha:
            raise ValueError(
                f"{name}: with tisd='within' and top_k=1 TISD is identically 0: one category has no relations "
                "inside. Use top_k >= 2, tisd='joint' or mass_weight > 0"
            )
        if foreground_only and activation == "sigmoid":
            raise ValueError(f"{name}: foreground_only needs a background logit, which sigmoids do not have")
        self.top_k, self.tisd, self.select_by = top_k, tisd, select_by
        self.alpha, self.beta = float(alpha), float(beta)
        self.mass_weight, self.gamma = float(mass_weight), float(gamma)
        self.foreground_only = bool(foreground_only)
        # Of the implicit background, which is appended, the index is known.
        self._background = -1 if activation == "implicit_bg" else None

    def read_meaning(self, meaning: LogitMeaning) -> None:
        if self.activation == "softmax":
            self._background = meaning.background

    def check_num_logits(self, num_logits: int) -> None:
        name = type(self).__name__
        if self.foreground_only and self._background is None:
            raise ValueError(
                f"{name}: foreground_only=True, but the head has no background logit (or, outside of ReKDDistiller, "
                "nothing says which one it is: there only activation='implicit_bg' has a known one)"
            )
        num_logits += self.activation == "implicit_bg"
        if self.activation == "sigmoid" and num_logits == 1 and "loss_tisd" in self.parts:
            if self.top_k > 1:
                raise ValueError(f"{name}: top_k={self.top_k}, but the head has one category; set top_k=1")
        else:
            check_tail(name, 1 if isinstance(self.top_k, float) else self.top_k, num_logits)

    def kernel_spec(self) -> KDSpec:
        if self.tisd == "joint":
            # The top-K set's relations count by its mass; Bernoullis are sums already.
            on_top = "top" if self.activation == "sigmoid" else "p_top"
            tisd = Part("loss_tisd", mass=self.alpha, **{on_top: self.alpha})
        else:
            tisd = Part("loss_tisd", mass=self.mass_weight, top=self.alpha)
        share = self.top_k if isinstance(self.top_k, float) else None
        return KDSpec(
            tuple(part for part in (tisd, Part("loss_ntid", tail=self.beta)) if part.name in self.parts),
            self.select_by,
            MAX_TOP_K if share is not None else int(self.top_k),
            self.activation,
            self.tau,
            self.gamma,
            share=share,
            tail_sum=self.tisd == "split",
            background=self._background if self.foreground_only else None,
        )


@MODELS.register_module()
class TISDLoss(ReKDLoss):
    """The top-K part of :class:`ReKDLoss` alone. Options as there, without ``beta``."""

    parts = ("loss_tisd",)

    def __init__(self, top_k: int = 5, alpha: float = 1.0, **kwargs) -> None:
        _refuse(kwargs, "beta", "TISDLoss")
        super().__init__(top_k=top_k, alpha=alpha, beta=0.0, **kwargs)


@MODELS.register_module()
class NTIDLoss(ReKDLoss):
    """The tail (non-top-K) part of :class:`ReKDLoss` alone.

    Options as there, without ``alpha``, ``tisd``, ``mass_weight``, ``gamma``.
    """

    parts = ("loss_ntid",)

    def __init__(self, top_k: int = 5, beta: float = 1.0, **kwargs) -> None:
        for key in ("alpha", "tisd", "mass_weight", "gamma"):
            _refuse(kwargs, key, "NTIDLoss")
        super().__init__(top_k=top_k, alpha=0.0, beta=beta, **kwargs)


def _refuse(kwargs: dict, key: str, owner: str) -> None:
    if key in kwargs:
        raise TypeError(f"{owner} has no option {key!r}: use ReKDLoss for both parts together")
