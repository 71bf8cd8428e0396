"""Published tables of log p(x): their models, settings and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config import Config

__all__ = ["PUBLISHED", "Published", "Row"]


@dataclass(frozen=True)
class Row:
    """A model of a table.

    Attributes:
        published: reported mean log p(x), nats, by the guide with K = 5,000 unless its table says
            otherwise.
        settings: what differs from the table's config.
    """

    published: float
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """A published table.

    Attributes:
        source: where it was published.
        config: settings of all its models, by the full schedule.
        rows: models by name.
        short: epochs of the short schedule.
        differs: what is not as in the publication.
    """

    source: str
    config: Config
    rows: Mapping[str, Row]
    short: int
    differs: str = ""


_TOMCZAK = Config(
    data="mnist",
    network="gated",
    hidden=(300, 300),
    latent_dim=40,
    prior_components=500,
    epochs=2000,
    batch_size=100,
    learning_rate=5e-4,
    kl_warmup=100,
    patience=50,
    compiled=True,
)
_BURDA = Config(
    data="mnist",
    hidden=(200, 200),
    latent_dim=50,
    activation="tanh",
    validation=0,
    epochs=3280,
    batch_size=20,
    learning_rate=1e-3,
    schedule="cosine",
    compiled=True,
)
_STAGES = "the learning rate falls by a cosine over as many epochs, in place of eight stages."
_ADAM = "Adam without per-tensor normalized gradients."

PUBLISHED = {
    "burda-1layer": Published(
        source="Burda et al. 2016, Table 1, https://arxiv.org/abs/1509.00519",
        config=_BURDA,
        rows={
            "VAE k=1": Row(-86.76, {}),
            "VAE k=5": Row(-86.47, {"particles": 5}),
            "IWAE k=5": Row(-85.54, {"objective": "iwae", "particles": 5}),
            "VAE k=50": Row(-86.35, {"particles": 50}),
            "IWAE k=50": Row(-84.78, {"objective": "iwae", "particles": 50}),
        },
        short=2,
        differs=_STAGES,
    ),
    "exemplar-mlp": Published(
        source="Norouzi et al. 2020, https://arxiv.org/abs/2004.04795",
        config=_TOMCZAK,
        rows={
            "N(0, I)": Row(-84.45, {}),
            "VampPrior": Row(-82.43, {"prior": "vamp"}),
            "exemplar": Row(-82.09, {"prior": "exemplar"}),
        },
        short=20,
        differs=_ADAM,
    ),
    "vampprior": Published(
        source="Tomczak and Welling 2018, Table 1, https://arxiv.org/abs/1705.07120",
        config=replace(_TOMCZAK, binarize="static"),
        rows={
            "N(0, I)": Row(-88.56, {}),
            "VampPrior": Row(-85.57, {"prior": "vamp"}),
            "two layers, N(0, I)": Row(-86.05, {"program": "top-down", "top_dim": 40}),
            "two layers, VampPrior": Row(
                -83.19, {"program": "top-down", "top_dim": 40, "prior": "vamp"}
            ),
        },
        short=15,
        differs=f"{_ADAM} Static binarization is drawn here, not the fixed file of Larochelle.",
    ),
    "altosaar-static": Published(
        source="https://github.com/altosaar/variational-autoencoder",
        config=Config(
            data="mnist",
            binarize="static",
            hidden=(256, 256),
            latent_dim=128,
            activation="relu",
            epochs=100,
            batch_size=128,
            compiled=True,
        ),
        rows={
            "diagonal": Row(-97.10, {}),
            "flow": Row(-95.33, {"posterior": "flow"}),
        },
        short=10,
        differs="Adam in place of RMSprop; static binarization is drawn here.",
    ),
    "wu-ais": Published(
        source="Wu et al. 2017, https://arxiv.org/abs/1611.04273: an IWAE by AIS with 10,000 "
        "distributions; by importance sampling with 10,000 draws they report −86.90",
        config=_BURDA,
        rows={"IWAE k=50": Row(-85.62, {"objective": "iwae", "particles": 50})},
        short=2,
        differs=_STAGES,
    ),
}
"""Published tables by name."""
