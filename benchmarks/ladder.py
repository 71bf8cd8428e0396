"""The ladder of proposals on a trained run: ``python benchmarks/ladder.py RUN``."""

import sys
import warnings

import pyro_vae as pv
from pyro_vae.runs.inputs import load_data


def row(name: str, result: pv.Evidence) -> str:
    """One line of the table."""
    mean = result.mean()
    return (
        f"{name:<26} {mean.value:9.3f} ± {mean.mc_error:.3f}  uncorrected "
        f"{result.log_px.mean():9.3f}  median ESS {result.ess.median():6.0f}  "
        f"doubtful {result.share_unreliable():6.1%}  {result.seconds:6.1f} s  {result.rungs()}"
    )


def main(folder: str) -> None:
    """Print the table, the certificate and the gaps."""
    warnings.simplefilter("ignore", pv.UnreliableEvidence)
    run = pv.load_run(folder)
    vae, test = run.vae, load_data(run.config).test
    few = test.head(100)
    print(f"{few.description}, first 100, K = 5,000")
    for method in ("guide", "refined", "laplace", "modes", "annealed", "auto"):
        result = pv.log_evidence(vae.model, vae.guide, few, samples=5000, method=method)
        print(row(method, result), flush=True)
    long = pv.Annealing(temperatures=300, chains=64)
    result = pv.log_evidence(vae.model, vae.guide, few, method="annealed", annealing=long)
    print(row("annealed, 300 temperatures", result), flush=True)
    result = pv.log_evidence(vae.model, vae.guide, test.head(1000), method="auto")
    print(row("auto, 1,000 data, K = 1,000", result), flush=True)
    print(pv.certify(vae.model, vae.guide, test, number=100), flush=True)
    print(pv.analysis.inference_gaps(vae.model, vae.guide, test.head(500)), flush=True)
    print(pv.analysis.active_units(vae.model, vae.guide, test.head(1000)))
    print(pv.analysis.rate(vae.model, vae.guide, test.head(1000)))


if __name__ == "__main__":
    main(*sys.argv[1:])
