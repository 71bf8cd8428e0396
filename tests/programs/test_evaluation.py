"""Every function that evaluates programs takes data of every kind, masks, and shares its work."""

import json
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae import analysis
from pyro_vae.common.processes import Processes
from pyro_vae.evidence import unbiased_log_evidence
from pyro_vae.evidence.annealing import Annealing
from pyro_vae.evidence.ladder import Ladder
from pyro_vae.programs.evaluation import evaluating

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

N = 70  # more than a block of 64
FEW = Annealing(temperatures=3, chains=4)


class Shifted:
    """x | z, c ~ N(W z + b + c, s^2 I): log p(x | c) is that of x - c in closed form."""

    def __init__(self, lg):
        self.lg = lg

    def model(self, x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.lg.prior())
            loc = z @ self.lg.weight.T + self.lg.bias + c
            pyro.sample("x", dist.Normal(loc, self.lg.scale).to_event(1), obs=x)

    def guide(self, x, c):
        diagonal_guide(self.lg)(x - c)


def diagonal_guide(lg):
    """A guide with a closed-form KL in each dimension."""

    def guide(x):
        q = lg.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(q.mean, 1.3 * q.variance.sqrt()).to_event(1))

    return guide


@pytest.fixture(scope="module")
def data(linear_gaussian):
    draws = torch.randn(2, N, 5, generator=torch.Generator().manual_seed(0)).double()
    return draws[0], draws[1]  # x and a condition


def _numbers(result):
    """Numbers of a result of any of the functions, as one vector."""
    if isinstance(result, pv.Evidence):
        return torch.cat([result.log_px, result.standard_error, result.elbo])
    if isinstance(result, pv.Certificate):
        return torch.cat([result.lower, result.upper, result.evidence.log_px])
    if isinstance(result, analysis.Gaps):
        return torch.cat([result.inference, result.approximation])
    if isinstance(result, analysis.Rate):
        return torch.tensor([result.rate, result.error, result.mutual_information])
    if isinstance(result, analysis.ActiveUnits):
        return torch.cat(list(result.variance.values()))
    if isinstance(result, dict):
        return torch.cat(list(result.values()))
    return torch.cat([result.values, result.base_values])


FUNCTIONS = {
    "log_evidence": lambda *args, **kw: pv.log_evidence(*args, samples=40, **kw),
    "log_evidence target": lambda *args, **kw: pv.log_evidence(
        *args, samples=40, target_error=0.05, method="laplace", **kw
    ),
    "unbiased": lambda *args, **kw: unbiased_log_evidence(*args, base=8, **kw),
    "certify": lambda *args, **kw: pv.certify(*args, number=66, samples=20, annealing=FEW, **kw),
    "gaps": lambda *args, **kw: analysis.inference_gaps(*args, samples=30, annealing=FEW, **kw),
    "active_units": lambda *args, **kw: analysis.active_units(*args, samples=10, **kw),
    "kl": analysis.kl_per_dimension,
    "rate": analysis.rate,
}
CHEAP = ("log_evidence", "unbiased", "active_units", "kl", "rate")
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def _kinds(x):
    """The same data as a user may have them."""
    return {
        "Data": pv.Data(x),
        "tuple": (x,),
        "dataset": TensorDataset(x, torch.arange(N)),
        "loader": DataLoader(TensorDataset(x), batch_size=7),
        "batches": [x[:30], x[30:31], x[31:]],
    }


@every_function
def test_every_kind_of_data_gives_the_same_bits(name, data, linear_gaussian):
    lg, x = linear_gaussian, data[0]
    expected = _numbers(FUNCTIONS[name](lg.model, diagonal_guide(lg), x, seed=3))
    assert expected.isfinite().all()
    kinds = _kinds(x)
    for kind in kinds if name in CHEAP else ("loader",):
        result = FUNCTIONS[name](lg.model, diagonal_guide(lg), kinds[kind], seed=3)
        assert torch.equal(_numbers(result), expected), kind
        if name == "log_evidence":
            assert result.data_sha256 == pv.data.fingerprint(x)


@every_function
def test_conditional_programs(name, data, linear_gaussian):
    """Arguments beside the data go along, from memory and from a loader."""
    programs = Shifted(linear_gaussian)
    pair = (programs.model, programs.guide)
    result = FUNCTIONS[name](*pair, data, seed=3)
    loader = DataLoader(TensorDataset(*data), batch_size=11)
    assert torch.equal(_numbers(FUNCTIONS[name](*pair, loader, seed=3)), _numbers(result))
    if name == "log_evidence":
        lg, (x, c) = linear_gaussian, data
        cov = lg.weight @ lg.weight.T + lg.scale**2 * torch.eye(5).double()
        exact = torch.distributions.MultivariateNormal(lg.bias, cov).log_prob(x - c)
        scores = (result.log_px - exact) / result.standard_error
        assert scores.square().mean() < 2.0  # 70 squared scores: 6 of their errors
    if name == "certify":  # the conditions of the first data are those of the simulated ones
        assert abs(result.gap[0]) < 5 * result.gap[1] + 0.05


@every_function
def test_masks(name, data, linear_gaussian):
    """A mask gives what a program of the observed values alone gives."""
    lg, x = linear_gaussian, data[0].clone()
    seen = torch.tensor([True, True, False, True, False])
    whole = FUNCTIONS[name](lg.model, diagonal_guide(lg), x, seed=3)
    x[:, ~seen] = torch.nan
    pair = (lg.model, lg.prior_guide)
    result = FUNCTIONS[name](*pair, x, mask=seen, seed=3)
    assert not torch.equal(_numbers(result), _numbers(whole))
    every_row = FUNCTIONS[name](*pair, x, mask=seen.expand(N, 5), seed=3)
    assert torch.equal(_numbers(every_row), _numbers(result))
    loader = DataLoader(TensorDataset(x), batch_size=13)
    streamed = FUNCTIONS[name](*pair, loader, mask=seen.expand(N, 5), seed=3)
    assert torch.equal(_numbers(streamed), _numbers(result))
    if name == "log_evidence":
        weight = lg.weight[seen]
        cov = weight @ weight.T + lg.scale**2 * torch.eye(3).double()
        exact = torch.distributions.MultivariateNormal(lg.bias[seen], cov).log_prob(x[:, seen])
        many = pv.log_evidence(*pair, x, mask=seen, samples=4000, seed=3)
        good = ~many.unreliable()
        scores = ((many.log_px - exact) / many.standard_error)[good]
        assert good.sum() > 20
        assert scores.square().mean() < 2.5


def test_labels_of_data_serve_programs_of_two_arguments(digits):
    model = pv.ConditionalVAE.from_config(
        pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8), classes=10
    )
    test = digits.test.head(20)
    pair = (model.model, model.guide)
    expected = pv.log_evidence(*pair, (test.x, test.y), samples=20).log_px
    assert torch.equal(pv.log_evidence(*pair, test, samples=20).log_px, expected)
    with pytest.raises(TypeError, match="has no labels"):
        pv.log_evidence(*pair, pv.Data(test.x), samples=20)
    history = pv.fit(model, digits.train.head(60), digits.valid.head(20), epochs=2)
    assert len(history) == 2


class Counted(torch.utils.data.Dataset):
    """Data that say how many of them are in memory at once."""

    def __init__(self, x):
        self.x, self.alive, self.most = x, 0, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        import weakref

        row = self.x[place].clone()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(row, self._forget)
        return row

    def _forget(self):
        self.alive -= 1


def test_a_dataset_is_never_in_memory_as_a_whole(linear_gaussian):
    lg = linear_gaussian
    dataset = Counted(torch.randn(1000, 5).double())
    evidence = pv.log_evidence(lg.model, lg.guide, dataset, samples=4)
    assert len(evidence) == 1000
    assert 64 <= dataset.most <= 300  # a block, or one of those that the hash reads


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda x: DataLoader(TensorDataset(x), 7, shuffle=True), ValueError, "shuffle=False"),
        (lambda x: (row for row in x.split(10)), TypeError, "can be read only once"),
        (lambda x: 3, TypeError, r"torch\.as_tensor"),
        (lambda x: (), TypeError, "tuple of 0 arguments"),
        (lambda x: (x, x), TypeError, "tuple of 2 arguments"),
        (lambda x: (x, x[:3]), ValueError, "argument 1 has 3 rows"),
        (lambda x: TensorDataset(x[:0]), ValueError, "empty"),
        (lambda x: TensorDataset(x.log()), ValueError, r"NaN or infinite values \(first in datum"),
    ],
)
def test_wrong_data(given, error, message, data, linear_gaussian):
    lg = linear_gaussian
    with pytest.raises(error, match=message):
        pv.log_evidence(lg.model, lg.guide, given(data[0]), samples=4)


def test_a_loader_without_length_trains_as_one_of_known_length(digits):
    """Its batches are counted by one pass; what can be read only once is refused."""
    batches = digits.train.x[:20].split(10)

    class Batches:
        def __iter__(self):
            return iter(batches)

    class Once:
        passes = iter(batches)

        def __iter__(self):
            return self.passes

    def trained(data):
        vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
        return [epoch.train_elbo for epoch in pv.fit(vae, data, epochs=2, seed=0).epochs]

    assert trained(Batches()) == trained(list(batches))
    with pytest.raises(TypeError, match="training data is a Once, which can be read only once"):
        trained(Once())


@pytest.mark.parametrize("method", ["guide", "laplace", "annealed", "auto"])
def test_the_same_draws_again(method, data, linear_gaussian):
    """What a reduced precision adds is measured on the draws of the estimate, with a target too."""
    lg = linear_gaussian
    with evaluating(lg.model, diagonal_guide(lg), data[0]) as evaluation:
        ladder = Ladder(method=method, annealing=FEW, mean_error=0.5)
        block = next(evaluation.blocks())
        seen = 0
        for weighed in ladder.weigh(evaluation.pair, block.batch, (5, 0)):
            again = ladder.again(weighed, evaluation.pair, (5, 0))
            assert torch.equal(again.log_weights, weighed.log_weights)
            seen += len(weighed.fitted.index)
    assert seen == 64


def test_not_finite_names_the_data_of_any_rung(linear_gaussian):
    """Rows of a part of a block are named by their positions in the data."""
    lg = linear_gaussian

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", lg.prior())
            loc = lg.likelihood(z).base_dist.loc
            wrong = torch.where(x[..., :1] == 7.0, torch.nan, 0.0)  # one datum
            pyro.sample("x", dist.Normal(loc + wrong, lg.scale).to_event(1), obs=x)

    x = torch.randn(N, 5).double()
    x[66, 0] = 7.0
    for given in (x, DataLoader(TensorDataset(x), batch_size=9)):
        with pytest.raises(ValueError, match=r"site 'x' of the model .* for datum 66\."):
            pv.log_evidence(model, lg.guide, given, samples=10)
    with pytest.raises(ValueError, match=r"for datum 66\."):
        unbiased_log_evidence(model, lg.guide, x, base=8)


def test_data_outside_the_support_are_named_by_their_position(digits):
    vae = pv.VAE.from_config(pv.Config(latent_dim=2, hidden=(8,)), event_shape=(8, 8))
    x = digits.test.x[:N].clone()
    x[67] = 0.5
    for function in (pv.log_evidence, unbiased_log_evidence):
        with pytest.raises(ValueError, match=r"datum 67 holds values such as 0\.5"):
            function(vae.model, vae.guide, x)


def _work(kind: str) -> dict:
    """Numbers of the cheap functions or of the others, in this process."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from conftest import LinearGaussian

    lg = LinearGaussian()
    x = torch.randn(N, 5, generator=torch.Generator().manual_seed(0)).double()
    seen = torch.tensor([True, True, False, True, False])
    numbers = {}
    for name, function in FUNCTIONS.items():
        if (name in CHEAP) != (kind == "cheap"):
            continue
        given, options = x, {}
        if name in (
            "log_evidence target",
            "log_evidence",
        ):  # a mask and a loader go the same way in all
            given, options = DataLoader(TensorDataset(x), batch_size=13), {"mask": seen}
        result = function(lg.model, diagonal_guide(lg), given, seed=3, **options)
        numbers[name] = _numbers(result).tolist()
    return numbers


@pytest.mark.parametrize("kind", ["cheap", pytest.param("other", marks=pytest.mark.slow)])
def test_two_processes_give_the_numbers_of_one(kind, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command[3:3] = ["--standalone"]
    command += [__file__, str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    expected = _work(kind)
    for rank in range(2):
        written = tmp_path / f"{rank}.json"
        assert written.exists(), done.stderr[-3000:]
        assert json.loads(written.read_text()) == expected


if __name__ == "__main__":
    import os
    import warnings

    warnings.simplefilter("ignore")
    content = json.dumps(_work(sys.argv[2]))
    (Path(sys.argv[1]) / f"{os.environ['RANK']}.json").write_text(content)
    Processes.join().wait()  # torchrun stops the others when one process ends in any other way
