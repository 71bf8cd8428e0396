"""Peak memory of fit and log_evidence over a file larger than memory ought to be.

``python benchmarks/memory.py`` writes an ``.npy`` file of 4 GB into a temporary folder, trains one
epoch on all of it and estimates log p(x) of all of it, each in a process of its own, and prints the
peak resident memory of each; ``--rows 1000000 --columns 20 --verbs load fit`` does so for data that
are read into memory, beside the size of the data. ``--dtype uint8`` takes bytes.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, whatever is installed

_AT_ONCE = 2**26  # bytes written at once


def write(path: Path, rows: int, columns: int, dtype: str) -> None:
    """Write random numbers of a low rank, block by block."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, columns), dtype=np.float32)
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, columns)}
    step = max(1, _AT_ONCE // (4 * columns))
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, rows, step):
            code = rng.standard_normal((min(step, rows - first), 4), dtype=np.float32)
            x = code @ weight
            file.write((x if dtype != "uint8" else (128 + 20 * x).clip(0, 255)).astype(dtype))


def peak() -> float:
    """Peak resident memory of this process, in MB."""
    status = Path("/proc/self/status").read_text()  # getrusage counts the parent's, too
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def measure(verb: str, path: Path) -> None:
    """Run one verb on the file and print its memory, above that of the imports."""
    import torch

    import pyro_vae as pv

    torch.set_num_threads(1)
    mapped = np.load(path, mmap_mode="r")
    shape, kind = mapped.shape, mapped.dtype
    config = pv.Config(latent_dim=2, hidden=(4,), likelihood="normal")
    vae = pv.VAE.from_config(config, event_shape=shape[1:])
    few = torch.randn(200, *shape[1:])
    pv.fit(vae, few, epochs=1, batch_size=200, device="cpu", progress=False)
    pv.log_evidence(vae.model, vae.guide, few[:64], samples=1, search=False, progress=False)
    before, started = peak(), time.process_time()
    size = mapped.nbytes / 1e6
    if verb == "load":
        pv.load(path)
    elif verb == "fit":
        pv.fit(vae, mapped, epochs=1, batch_size=200, device="cpu", progress=False)
    elif verb == "fit-tensor":
        x = torch.from_numpy(np.load(path))
        pv.fit(vae, x, epochs=1, batch_size=200, device="cpu", progress=False)
    else:
        evidence = pv.log_evidence(
            vae.model, vae.guide, mapped, samples=1, search=False, progress=False
        )
        assert len(evidence) == shape[0]
    above = peak() - before
    print(
        f"{verb:<13} {shape[0]:,} x {shape[1]:,} {kind}, {size:,.0f} MB: peak {peak():,.0f} MB, "
        f"{above:,.0f} MB above the imports ({above / size:.2f} of the data), "
        f"{time.process_time() - started:.0f} s of CPU",
        flush=True,
    )


def main() -> None:
    """Write the file, measure each verb in a process of its own, delete the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--columns", type=int, default=25_000)
    parser.add_argument("--dtype", choices=["float32", "uint8"], default="float32")
    parser.add_argument("--verbs", nargs="*", default=["fit", "log_evidence"])
    parser.add_argument("--folder", type=Path, help="where the file is written, on a disk")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        import warnings

        warnings.simplefilter("ignore")
        measure(options.one[0], Path(options.one[1]))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "x.npy"
        write(path, options.rows, options.columns, options.dtype)
        for verb in options.verbs:
            subprocess.run([sys.executable, __file__, "--one", verb, str(path)], check=True)


if __name__ == "__main__":
    main()
