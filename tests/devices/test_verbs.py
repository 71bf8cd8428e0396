"""Every public function on a GPU, with data that lie on the CPU: the CPU's bits, no error.

A public function without a line here fails a test.
"""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from devices.twins import Clusters, as_on_a_cpu, build, same_on_both

import pyro_vae as pv
from pyro_vae import runs
from pyro_vae.runs import inputs
from pyro_vae.runs import run as runs_run

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


@pytest.fixture(autouse=True)
def _sizes_of_a_cpu(monkeypatch):
    as_on_a_cpu(monkeypatch)


def _pair(digits, device, **options):
    """Both programs of a small VAE on the device, and a few data on the CPU."""
    program = build(digits, latent_dim=2, hidden=(8,), **options)[1].to(device)
    return program.model, program.guide, digits.test.x[:6]


def _drawn(figure):
    """All lines and images of a figure."""
    found = [np.asarray(line.get_data(), dtype=float) for ax in figure.axes for line in ax.lines]
    found += [
        np.asarray(image.get_array(), dtype=float) for ax in figure.axes for image in ax.images
    ]
    found += [
        np.asarray(s.get_offsets(), dtype=float) for ax in figure.axes for s in ax.collections
    ]
    plt.close(figure)
    return [np.ones(1), *(np.nan_to_num(part) for part in found)]


def _weights(device):
    return torch.linspace(-3, 0, 60, device=device).reshape(30, 2).double()


def _evidence(digits, device, **options):
    model, guide, x = _pair(digits, device, **options)
    return pv.log_evidence(model, guide, x, samples=30)


VERBS = {
    # models
    "encode": lambda digits, device: build(digits)[1].to(device).encode(digits.test.x[:5]),
    "decode": lambda digits, device: build(digits)[1].to(device).decode(torch.ones(3, 4)),
    "reconstruct": lambda digits, device: (
        build(digits)[1].to(device).reconstruct(digits.test.x[:5])
    ),
    "interpolate": lambda digits, device: (
        build(digits)[1].to(device).interpolate(digits.test.x[:2], digits.test.x[2:4], steps=3)
    ),
    "sample": lambda digits, device: build(digits)[1].to(device).sample(3, seed=1),
    "sample of layers": lambda digits, device: (
        build(digits, program="top-down")[1].to(device).sample(3, seed=1)
    ),
    "reconstruct of layers": lambda digits, device: (
        build(digits, program="bottom-up")[1].to(device).reconstruct(digits.test.x[:5])
    ),
    "sample of a condition": lambda digits, device: (
        build(digits, program="conditional")[1].to(device).sample(digits.test.y[:3], seed=1)
    ),
    "reconstruct of a condition": lambda digits, device: (
        build(digits, program="conditional")[1]
        .to(device)
        .reconstruct(digits.test.x[:3], digits.test.y[:3])
    ),
    "sample of exposures": lambda digits, device: (
        build(digits, program="counts")[1].to(device).sample(torch.tensor([1.0, 20.0]), seed=1)
    ),
    "reconstruct of exposures": lambda digits, device: (
        build(digits, program="counts")[1]
        .to(device)
        .reconstruct(digits.test.x[:3], torch.tensor([1.0, 20.0, 3.0]))
    ),
    "classify": lambda digits, device: (
        build(digits, program="semi-supervised")[1].to(device).classify(digits.test.x[:5])
    ),
    "accuracy": lambda digits, device: (
        build(digits, program="semi-supervised")[1]
        .to(device)
        .accuracy(digits.test.x[:9], digits.test.y[:9])
    ),
    "sample of labels": lambda digits, device: (
        build(digits, program="semi-supervised")[1].to(device).sample(digits.test.y[:3], seed=1)
    ),
    "impute by a program": lambda digits, device: pv.Masked(build(digits)[1].to(device)).impute(
        digits.test.x[:5], digits.test.x[:5] > 0.1
    ),
    "build_program": lambda digits, device: list(build(digits)[1].to(device).parameters()),
    "one_hot": lambda digits, device: pv.models.one_hot(
        digits.test.y[:3].to(device), 10, dtype=torch.float32
    ),
    "partially_labelled": lambda digits, device: [
        pv.partially_labelled(digits.train.x[:99], digits.train.y[:99].to(device), labels=20),
        pv.partially_labelled(digits.train.x[:99].to(device), digits.train.y[:99], labels=20),
    ],
    "amortize": lambda digits, device: list(
        pv.amortize(Clusters().to(device).model, torch.linspace(-1, 3, 60).reshape(30, 2))
        .to(device)
        .parameters()
    ),
    # data
    "fingerprint": lambda digits, device: int(
        pv.data.fingerprint(digits.test.x[:9].to(device))[:8], 16
    ),
    "fingerprint_of": lambda digits, device: int(
        pv.data.fingerprint_of(pv.data.as_source(digits.test.x.to(device), len))[:8], 16
    ),
    # analysis and checks
    "inference_gaps": lambda digits, device: pv.analysis.inference_gaps(
        *_pair(digits, device), samples=30
    ),
    "active_units": lambda digits, device: pv.analysis.active_units(*_pair(digits, device)),
    "kl_per_dimension": lambda digits, device: pv.analysis.kl_per_dimension(*_pair(digits, device)),
    "encode of a pair": lambda digits, device: pv.analysis.encode(
        *_pair(digits, device, program="top-down"), draws=2
    ).columns(),
    "reconstruct of a pair": lambda digits, device: pv.analysis.reconstruct(
        *_pair(digits, device)
    ).columns(),
    "collapse": lambda digits, device: pv.analysis.collapse(
        build(digits)[1].to(device), digits.test.x[:6]
    )(None),
    "rate": lambda digits, device: pv.analysis.rate(*_pair(digits, device)),
    "calibration": lambda digits, device: pv.check.calibration(
        *_pair(digits, device), simulations=50, samples=12, draws=10
    ),
    "predictive": lambda digits, device: pv.check.predictive(
        *_pair(digits, device), replicates=20
    ).summary(),
    "predictive from the prior": lambda digits, device: pv.check.predictive(
        *_pair(digits, device), replicates=20, latents="prior"
    ).summary(),
    "default_statistics": lambda digits, device: [
        statistic(digits.test.x[:9].to(device).flatten(1))
        for statistic in pv.check.default_statistics("binary").values()
    ],
    # evidence
    "compare": lambda digits, device: pv.compare(
        {"a": _evidence(digits, device), "b": _evidence(digits, device, prior="laplace")}
    ).to_dict(),
    "impute": lambda digits, device: (
        pv.impute(
            *_pair(digits, device),
            3,
            mask=torch.arange(64).reshape(8, 8) % 3 > 0,
            method="guide",
            samples=30,
            search=False,
        ).draws
    ),
    "to_csv": lambda digits, device: [
        float(word)
        for word in pv.evidence.to_csv(_evidence(digits, device)).split("\n")[1].split(",")[1:3]
    ],
    "multilevel": lambda digits, device: pv.evidence.multilevel(
        lambda index, samples, key: (
            torch.linspace(-1, 1, samples * len(index)).reshape(samples, -1).double()
        ),
        8,
        base=8,
    ),
    # figures
    "images": lambda digits, device: _drawn(pv.plots.images(digits.test.x[:9].to(device))),
    "reconstructions": lambda digits, device: _drawn(
        pv.plots.reconstructions(digits.test.x[:4].to(device), digits.test.x[:4].to(device))
    ),
    "manifold": lambda digits, device: _drawn(
        pv.plots.manifold(digits.test.x[:9].reshape(3, 3, 8, 8).to(device))
    ),
    "interpolation": lambda digits, device: _drawn(
        pv.plots.interpolation(digits.test.x[:6].reshape(3, 2, 8, 8).to(device))
    ),
    "latent_space": lambda digits, device: _drawn(
        pv.plots.latent_space(digits.test.x[:9, 0, :2].to(device), digits.test.y[:9].to(device))
    ),
    "learning_curves": lambda digits, device: _drawn(
        pv.plots.learning_curves(
            {
                "run": pv.fit(
                    build(digits)[1], digits.train.x[:60], epochs=2, device=device
                ).columns()
            }
        )
    ),
    "evidence_diagnostics": lambda digits, device: _drawn(
        pv.plots.evidence_diagnostics(*_weights(device).mT)
    ),
    "comparison": lambda digits, device: _drawn(
        pv.plots.comparison(["a", "b"], _weights(device)[3], _weights(device)[4].exp())
    ),
}

# What is looked at in other files of this folder, or has no tensors of a device.
ELSEWHERE = {
    "are_pictures",
    "as_program as_source attempt bound bridge build_objective calibration_curves certify",
    "compile_function convergence delta_corrected effective_sample_size exposed fit jackknife",
    "holds_run kl_weight load load_parameters load_run log_evidence log_predictive objective_of",
    "pareto_k",
    "picture_rows predictive_checks read sample_posterior save standard_error state_of study",
    "compare_seeds evidence_by_value export_run",
    "check_parameters copy_of entries_of newest set_aside",
    "coded decoded describe imputed impute_run infer load_rows load_table marginals",
    "to_datatree unbiased_log_evidence warn write write_csv",
}


@pytest.mark.parametrize("name", VERBS)
def test_verb(digits, name):
    same_on_both(lambda device: VERBS[name](digits, device))


def test_every_public_function_is_looked_at():
    rooms = [pv, *(getattr(pv, name) for name in pv.__all__ if inspect.ismodule(getattr(pv, name)))]
    public = {
        name
        for room in rooms
        for name in getattr(room, "__all__", ())
        if inspect.isfunction(getattr(room, name))
    }
    known = set(VERBS) | {name for line in ELSEWHERE for name in line.split()}
    assert public <= known, public - known


@pytest.mark.parametrize("program", ["vae", "conditional", "semi-supervised"])
def test_a_run_from_training_to_figures(tmp_path, program, monkeypatch):
    """One folder, as the command line makes it."""
    splits = inputs.load_data(pv.Config())
    small = type(splits)(*(part.head(60) for part in splits))
    for module in (runs_run, inputs):
        monkeypatch.setattr(module, "load_data", lambda config, root=None: small)
    labels = {"labels": 20} if program == "semi-supervised" else {}

    def compute(device):
        folder = tmp_path / device.type
        config = pv.Config(program=program, latent_dim=2, hidden=(8,), epochs=1, **labels)
        runs_run.train_run(config, folder, device=device.type)
        options = runs_run.EvaluationSettings(samples=20, number=9, search=False)
        evidence = runs_run.evaluate_run(folder, options, device=device.type)
        found = pv.load_run(folder, device=device.type)
        pictures = [*runs.figures.sample_run(folder, number=4, device=device.type)]
        assert all(path.exists() for path in pictures)
        return [list(found.vae.parameters()), evidence]

    same_on_both(compute)


def test_a_study(tmp_path, monkeypatch):
    splits = inputs.load_data(pv.Config())
    small = type(splits)(*(part.head(60) for part in splits))
    for module in (runs_run, inputs, inspect.getmodule(runs.study)):
        monkeypatch.setattr(module, "load_data", lambda config, root=None: small)

    def compute(device):
        config = pv.Config(latent_dim=2, hidden=(8,), epochs=1)
        out, given = tmp_path / device.type, {"samples": 20, "method": "guide", "number": 9}
        found = pv.study(
            "prior",
            ["normal", "laplace"],
            config,
            out,
            device=device.type,
            search=False,
            say=lambda text: None,
            **given,
        )
        return found.to_dict()

    same_on_both(compute)
