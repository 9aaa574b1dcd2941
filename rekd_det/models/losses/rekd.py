"""ReKD: classical distillation split into the top-K categories (TISD) and the tail (NTID), each with its own weight.

Derived from the abstract of *Improving Knowledge Distillation via Head and Tail Categories* (DOI
10.1109/tcsvt.2023.3325814), which prints no equations; see docs/method.md for what is quoted and what is derived.
"""

from __future__ import annotations

from mmrazor.registry import MODELS

from rekd_det.models.losses.base import LogitLoss, check_choice, check_number, check_tail, check_top_k
from rekd_det.models.losses.kernels import KDSpec, Part


@MODELS.register_module()
class ReKDLoss(LogitLoss):
    """``alpha * TISD + beta * NTID``, times ``tau**2``.

    For softmax activations NTID is ``KL_tail`` (the KL renormalised inside the tail), freed of the factor ``1 - P``
    that classical distillation puts on it. TISD is, by ``tisd``:

    * 'joint': the KL over K + 1 buckets, ``KL_mass + P * KL_top``. ``alpha = 1, beta = 1 - P`` would be classical KD.
    * 'within': the KL renormalised inside the top-K set, ``KL_top`` (plus ``mass_weight * KL_mass``).

    For 'sigmoid' classical distillation is a sum of Bernoulli KLs over classes; TISD sums those of the top-K set, NTID
    the rest.

    Args:
        top_k: K, the size of a row's top-K set; 1 <= K < number of logits.
        alpha: weight of TISD, >= 0.
        beta: weight of NTID, >= 0.
        tau: temperature.
        tisd: 'joint' or 'within' (softmax activations only; 'sigmoid' has no other reading than 'joint').
        select_by: whose top-K logits are the set, 'teacher' or 'student'.
        activation: see :class:`LogitLoss`.
        mass_weight: weight of ``KL_mass`` beside ``KL_top``; only with ``tisd='within'``.
        gamma: exponent of the modulating factor ``|p_teacher - p_student|``; only with ``activation='sigmoid'``.
        reduction: see :class:`LogitLoss`.
        loss_weight: see :class:`LogitLoss`.
        backend: see :class:`LogitLoss`.

    Raises:
        ValueError: for options that have no meaning, alone or together.
    """

    #: which of its parts the loss has
    parts: tuple[str, ...] = ("loss_tisd", "loss_ntid")

    def __init__(
        self,
        top_k: int = 5,
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
    ) -> None:
        super().__init__(tau, activation, reduction, loss_weight, backend)
        name = type(self).__name__
        check_top_k(name, top_k)
        check_number(name, "alpha", alpha, least=0.0)
        check_number(name, "beta", beta, least=0.0)
        check_choice(name, "tisd", tisd, ("joint", "within"))
        check_choice(name, "select_by", select_by, ("teacher", "student"))
        check_number(name, "mass_weight", mass_weight, least=0.0)
        check_number(name, "gamma", gamma, least=0.0)
        if gamma and activation != "sigmoid":
            raise ValueError(f"{name}: gamma needs activation='sigmoid', got activation={activation!r}")
        if tisd == "within" and activation == "sigmoid":
            raise ValueError(f"{name}: tisd='within' needs a softmax activation, got activation='sigmoid'")
        if mass_weight and tisd != "within":
            raise ValueError(
                f"{name}: mass_weight needs tisd='within' and a softmax activation; "
                "tisd='joint' already holds the mass term with weight alpha"
            )
        if activation != "sigmoid" and tisd == "within" and top_k == 1 and not mass_weight and alpha:
            raise ValueError(
                f"{name}: with tisd='within' and top_k=1 TISD is identically 0: one category has no relations "
                "inside. Use top_k >= 2, tisd='joint' or mass_weight > 0"
            )
        self.top_k, self.tisd, self.select_by = top_k, tisd, select_by
        self.alpha, self.beta = float(alpha), float(beta)
        self.mass_weight, self.gamma = float(mass_weight), float(gamma)

    def check_num_logits(self, num_logits: int) -> None:
        check_tail(type(self).__name__, self.top_k, num_logits + (self.activation == "implicit_bg"))

    def kernel_spec(self) -> KDSpec:
        if self.activation == "sigmoid":
            tisd = Part("loss_tisd", top=self.alpha)
        elif self.tisd == "joint":
            tisd = Part("loss_tisd", mass=self.alpha, p_top=self.alpha)
        else:
            tisd = Part("loss_tisd", mass=self.mass_weight, top=self.alpha)
        parts = tuple(part for part in (tisd, Part("loss_ntid", tail=self.beta)) if part.name in self.parts)
        return KDSpec(parts, self.select_by, self.top_k, self.activation, self.tau, self.gamma)


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

    Options as there, without ``alpha``, ``tisd``, ``mass_weight``.
    """

    parts = ("loss_ntid",)

    def __init__(self, top_k: int = 5, beta: float = 1.0, **kwargs) -> None:
        for key in ("alpha", "tisd", "mass_weight"):
            _refuse(kwargs, key, "NTIDLoss")
        super().__init__(top_k=top_k, alpha=0.0, beta=beta, **kwargs)


def _refuse(kwargs: dict, key: str, owner: str) -> None:
    if key in kwargs:
        raise TypeError(f"{owner} has no option {key!r}: use ReKDLoss for both parts together")
