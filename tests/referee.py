"""Short seeded runs whose numbers must not change: a referee for every change of structure.

``python tests/referee.py record`` writes the record; ``python tests/referee.py`` runs everything
again and says what differs. On the machine that recorded (same processor, same torch) numbers are
compared bit for bit, elsewhere to a tolerance.
"""

import hashlib
import json
import platform
import sys
import tempfile
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, whatever is installed

import pyro_vae as pv

RECORD = Path(__file__).parent / "records" / "referee.json"
TOLERANCE = 1e-3  # relative, on another machine: rounding, after some steps of training

_SMALL = {"latent_dim": 4, "hidden": (12,)}

# Every prior, likelihood, posterior, network, program and objective at least once. The data are
# digits under the binarization that the likelihood asks for.
CONFIGS = {
    "normal": {},
    "gated-mixture-full": {"network": "gated", "prior": "mixture", "posterior": "full"},
    "vamp-iwae-dreg": {
        "prior": "vamp",
        "prior_components": 7,
        "objective": "iwae",
        "particles": 3,
        "gradient": "dreg",
    },
    "exemplar-low-rank": {
        "prior": "exemplar",
        "prior_components": 9,
        "posterior": "low-rank",
        "posterior_rank": 1,
    },
    "flow-flow": {"prior": "flow", "prior_transforms": 2, "posterior": "flow"},
    "hierarchical-hierarchical": {"prior": "hierarchical", "posterior": "hierarchical"},
    "student-renyi": {
        "prior": "student-t",
        "objective": "renyi",
        "particles": 3,
        "alpha": 0.3,
        "likelihood": "normal",
        "likelihood_scale": "value",
        "binarize": "gray",
    },
    "laplace-stl": {
        "prior": "laplace",
        "gradient": "stl",
        "likelihood": "laplace",
        "likelihood_scale": "network",
        "binarize": "gray",
    },
    "diagonal-analytic": {
        "prior": "diagonal",
        "kl": "analytic",
        "likelihood": "student-t",
        "binarize": "gray",
    },
    "conv-free-bits": {
        "network": "conv",
        "hidden": (4, 6),
        "free_bits": 0.2,
        "likelihood": "continuous-bernoulli",
        "binarize": "gray",
    },
    "residual-levels": {
        "network": "residual",
        "hidden": (4, 6),
        "likelihood": "discretized-logistic",
        "likelihood_levels": 17,
        "binarize": "gray",
    },
    "logistic-mixture": {
        "likelihood": "logistic-mixture",
        "likelihood_levels": 17,
        "likelihood_components": 2,
        "binarize": "gray",
    },
    "categorical-warmup": {
        "likelihood": "categorical",
        "likelihood_levels": 2,
        "kl_warmup": 2,
        "kl_cycles": 2,
        "beta": 0.7,
    },
    "binomial-cosine": {"likelihood": "binomial", "likelihood_count": 3, "schedule": "cosine"},
    "poisson-one-cycle": {"likelihood": "poisson", "schedule": "one-cycle"},
    "negative-binomial-patience": {"likelihood": "negative-binomial", "patience": 1},
    "bottom-up": {"program": "bottom-up"},
    "top-down-vamp": {
        "program": "top-down",
        "top_dim": 3,
        "prior": "vamp",
        "prior_components": 5,
        "binarize": "static",
    },
}


def machine() -> dict[str, str]:
    """What decides the last bits of a number."""
    cpu = ""
    if (info := Path("/proc/cpuinfo")).exists():
        lines = info.read_text().splitlines()
        cpu = "; ".join(
            next((line.partition(":")[2].strip() for line in lines if line.startswith(word)), "")
            for word in ("model name", "cpu family", "model\t")
        )
    capability = torch.backends.cpu.get_cpu_capability()
    return {"cpu": cpu or platform.processor(), "kernels": capability, "torch": torch.__version__}


def _digest(tensors) -> str:
    """Hash of tensors, whatever their names and order."""
    parts = sorted(
        hashlib.sha256(t.detach().contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
        for t in tensors
        if t.numel()
    )
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _numbers(module, history, evidences) -> dict:
    columns = {key: value for key, value in history.columns().items() if key != "seconds"}
    return {
        "parameters": _digest(module.parameters()),
        "norm": float(sum(p.detach().double().square().sum() for p in module.parameters())),
        "history": {key: [None if v != v else v for v in col] for key, col in columns.items()},
        **{
            name: {
                "log_px": one.log_px.tolist(),
                "elbo": one.elbo.tolist(),
                "standard_error": one.standard_error.tolist(),
            }
            for name, one in evidences.items()
        },
    }


def _evidence(module, x, **options):
    return pv.log_evidence(module.model, module.guide, x, progress=False, **options)


def from_config(name: str, folder: Path) -> dict:
    """Train, evaluate by the guide and by the ladder, and reload one model of a config."""
    config = pv.Config(**{**_SMALL, "epochs": 3, "batch_size": 40, **CONFIGS[name]})
    train, valid, test = pv.load("digits", binarize=config.binarize or "dynamic")
    train, valid, test = train.head(150), valid.head(40), test.head(6)
    module = pv.build_program(config, event_shape=train.event_shape, data=train.x)
    history = pv.fit(
        module,
        train,
        valid,
        objective=pv.objectives.objective_of(config),
        epochs=config.epochs,
        batch_size=config.batch_size,
        schedule=config.schedule,
        kl_warmup=config.kl_warmup,
        kl_cycles=config.kl_cycles,
        beta=config.beta,
        patience=config.patience,
        out=folder,
        config=config,
        progress=False,
        device="cpu",
    )
    return _numbers(
        module,
        history,
        {
            "guide": _evidence(module, test, samples=70, defensive=0.1),
            "auto": _evidence(pv.load_run(folder).vae, test, samples=70, method="auto"),
        },
    )


def conditional(folder: Path) -> dict:
    """A conditional model with a learned prior, of tensors and labels."""
    train, _, test = pv.load("digits")
    module = pv.ConditionalVAE.from_config(
        pv.Config(**_SMALL), event_shape=(8, 8), classes=10, data=train.x, learned_prior=True
    )
    pair = (train.x[:150], train.y[:150])
    history = pv.fit(module, pair, epochs=3, batch_size=40, out=folder, progress=False)
    given = (test.x[:6], test.y[:6])
    return _numbers(
        module,
        history,
        {
            "guide": _evidence(module, given, samples=70),
            "auto": _evidence(module, given, samples=70, method="auto"),
        },
    )


def semi_supervised(folder: Path) -> dict:
    """A semi-supervised model, by enumeration."""
    train, _, test = pv.load("digits")
    x, y = pv.partially_labelled(train.x[:150], train.y[:150], labels=30, seed=0)
    module = pv.SemiSupervisedVAE.from_config(
        pv.Config(**_SMALL), event_shape=(8, 8), classes=10, data=train.x
    )
    history = pv.fit(
        module,
        (x, y),
        objective=pv.EnumeratedELBO(),
        epochs=3,
        batch_size=40,
        out=folder,
        progress=False,
    )
    unknown = torch.full((6,), -1)
    return _numbers(
        module,
        history,
        {
            "guide": _evidence(module, (test.x[:6], test.y[:6]), samples=70),
            "unknown": _evidence(module, (test.x[:6], unknown), samples=70),
        },
    )


def masked(folder: Path) -> dict:
    """Missing pixels in training and in evidence."""
    train, _, test = pv.load("digits")
    mask = torch.rand(150, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.7
    vae = pv.VAE.from_config(pv.Config(**_SMALL), event_shape=(8, 8), data=train.x)
    module = pv.Masked(vae)
    pair = (train.x[:150], mask)
    history = pv.fit(module, pair, epochs=3, batch_size=40, out=folder, progress=False)
    return _numbers(
        module,
        history,
        {
            "guide": _evidence(module, (test.x[:6], mask[:6]), samples=70),
            "auto": _evidence(vae, test.x[:6], mask=mask[:6], samples=70, method="auto"),
        },
    )


def siblings(folder: Path) -> dict:
    """Certificates, analysis, unbiased and adaptive estimates of one model."""
    config = pv.Config(**_SMALL, epochs=3, batch_size=40)
    train, _, test = pv.load("digits")
    vae = pv.VAE.from_config(config, event_shape=(8, 8), data=train.x)
    history = pv.fit(vae, train.head(150), epochs=3, batch_size=40, out=folder, progress=False)
    few = pv.Annealing(temperatures=5, chains=8)
    some = test.head(70)
    pair = (vae.model, vae.guide)
    certificate = pv.certify(*pair, test, number=5, samples=70, annealing=few, progress=False)
    rate = pv.analysis.rate(*pair, some)
    gaps = pv.analysis.inference_gaps(*pair, test.head(5), samples=70)
    units = pv.analysis.active_units(*pair, some)
    unbiased = pv.evidence.unbiased_log_evidence(*pair, some, base=16)
    return {
        **_numbers(
            vae,
            history,
            {
                "annealed": _evidence(
                    vae, test.head(6), samples=70, method="annealed", annealing=few
                ),
                "target": _evidence(vae, some, samples=70, target_error=0.1, method="laplace"),
                "certified": certificate.evidence,
            },
        ),
        "bounds": [certificate.lower.tolist(), certificate.upper.tolist()],
        "rate": [rate.rate, rate.error, rate.mutual_information, rate.marginal],
        "gaps": [gaps.inference.tolist(), gaps.approximation.tolist()],
        "units": [v.tolist() for v in units.variance.values()],
        "kl": [v.tolist() for v in pv.analysis.kl_per_dimension(*pair, some).values()],
        "unbiased": [unbiased.values.tolist(), unbiased.base_variance.tolist()],
        "sample": vae.sample(3, seed=0, mean=True).flatten().tolist(),
        "interpolation": vae.interpolate(test.x[:1], test.x[1:2], steps=3).flatten().tolist(),
    }


RUNS = {
    **{name: (lambda folder, name=name: from_config(name, folder)) for name in CONFIGS},
    "conditional": conditional,
    "semi-supervised": semi_supervised,
    "masked": masked,
    "siblings": siblings,
}


def run(name: str, folder: Path | None = None) -> dict:
    """Numbers of one run, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            numbers = RUNS[name](Path(temporary) / "run" if folder is None else folder)
    finally:
        torch.set_num_threads(threads)
    return json.loads(json.dumps(numbers))


def differences(old, new, *, exactly: bool, where: str = ""):
    """Places where two records differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            place = f"{where}.{key}" if where else key
            if key == "parameters" and not exactly:
                continue
            if key not in old or key not in new:
                yield f"{place} is in one record only"
            else:
                yield from differences(old[key], new[key], exactly=exactly, where=place)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, exactly=exactly, where=f"{where}[{place}]")
    elif isinstance(old, float) and isinstance(new, float) and not exactly:
        if not abs(old - new) <= TOLERANCE * (1 + abs(old)):
            yield f"{where}: {old!r} became {new!r}"
    elif old != new:
        yield f"{where}: {old!r} became {new!r}"


def main(arguments: list[str]) -> int:
    """Record, or compare with the record."""
    if arguments[:1] == ["record"]:
        record = {"machine": machine(), "runs": {name: run(name) for name in RUNS}}
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps(record, separators=(",", ":")) + "\n")
        print(f"recorded {len(RUNS)} runs on {record['machine']}")
        return 0
    record = json.loads(RECORD.read_text())
    exactly = record["machine"] == machine()
    print("bit for bit" if exactly else f"to {TOLERANCE}: recorded on {record['machine']}")
    bad = 0
    for name in arguments or RUNS:
        found = list(differences(record["runs"][name], run(name), exactly=exactly))
        bad += bool(found)
        print(f"{name:<28} {'equal' if not found else f'{len(found)} differ: {found[0]}'}")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
