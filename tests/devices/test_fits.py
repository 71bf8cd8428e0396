"""fit on a GPU: the CPU's history and parameters, few waits, checkpoints, data of any kind."""

import pyro
import pytest
import torch
from devices.pretend import pretend
from devices.twins import Stopping, Stored, arguments, build, same_on_both
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.common.devices import exact_convolutions, resolve_device
from pyro_vae.common.processes import Processes

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")


def fitted(program, data, device, **options):
    history = pv.fit(program, data, device=device, epochs=2, **options)
    return [*history.columns().values()][:3], list(program.parameters())


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_fit(digits, device):
    def compute(where):
        return fitted(build(digits)[1], digits.train.head(250), where, valid=digits.valid.head(50))

    same_on_both(compute, device)


def test_waits_do_not_grow_with_the_steps(digits):
    waits = []
    with pretend() as gpu:
        for number in (300, 900):
            program = build(digits)[1]
            with gpu.counting() as found:
                fitted(program, digits.train.head(number), "cuda", valid=digits.valid.head(50))
            waits.append(sum(found.values()))
    assert waits[0] == waits[1] < 60


@pytest.mark.parametrize("program", ["conditional", "semi-supervised", "top-down"])
def test_fit_of_programs(digits, program):
    def compute(where):
        config, model = build(digits, program=program)
        objective = pv.objectives.objective_of(config)
        given = arguments(digits, 120, program=program)
        return fitted(model, given, where, objective=objective)

    same_on_both(compute)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dataset", "loader", "list", "on the GPU"])
def test_data_of_any_kind(digits, kind):
    x = digits.train.x[:120]

    def compute(where):
        data = {
            "tensor": x,
            "tuple": (x,),
            "dataset": TensorDataset(x),
            "loader": DataLoader(TensorDataset(x), 50, generator=torch.Generator()),
            "list": list(x.split(50)),
            "on the GPU": x.to(where),
        }[kind]
        return fitted(build(digits)[1], data, where)

    same_on_both(compute)


@pytest.mark.parametrize("options", [{"prior": "vamp"}, {"likelihood": "normal"}], ids=str)
def test_a_model_starts_the_same_wherever_the_data_are(digits, options):
    def compute(where):
        settings = {"hidden": (8,), "latent_dim": 2, **options}
        if "prior" in options:
            settings["prior_components"] = 5
        config = pv.Config(**settings)
        x = digits.train.x.to(where)
        return list(pv.build_program(config, event_shape=(8, 8), data=x).parameters())

    same_on_both(compute)


@pytest.mark.parametrize("likelihood", ["discretized-logistic", "normal", "laplace", "student-t"])
def test_a_fixed_scale_starts_at_data_on_the_gpu(digits, likelihood):
    def compute(where):
        config = pv.Config(hidden=(8,), likelihood=likelihood, likelihood_scale=0.2)
        x = digits.train.x[:50].to(where)
        return list(pv.VAE.from_config(config, event_shape=(8, 8), data=x).parameters())

    same_on_both(compute)


def test_a_run_taken_up_again_ends_at_the_same_bits_on_another_gpu(digits, tmp_path):
    def run(name, *parts):
        for place, (device, epochs) in enumerate(parts):
            program = build(digits)[1]
            data, out = digits.train.head(200), tmp_path / name
            pv.fit(program, data, epochs=epochs, device=device, out=out, resume=place > 0)
        return [p.detach().cpu() for p in program.parameters()]

    with pretend():
        whole = run("whole", ("cuda", 2))
        assert all(map(torch.equal, whole, run("parts", ("cuda", 1), ("cuda", 2))))
        assert all(map(torch.equal, whole, run("moved", ("cuda:1", 1), ("cuda:0", 2))))
    parts = run("back", ("cpu", 1), ("cpu", 2))
    assert all(map(torch.equal, whole, parts))


def test_a_stopped_run_goes_on_with_the_numbers_of_its_gpu(digits, tmp_path):
    def run(out, objective, **options):
        program = build(digits)[1]
        data = digits.train.head(300)
        pv.fit(program, data, objective=objective, epochs=2, device="cuda", out=out, **options)
        return [p.detach().cpu() for p in program.parameters()]

    with pretend():
        whole = run(tmp_path / "whole", pv.ELBO())
        with pytest.raises(pv.Interrupted):
            run(tmp_path / "parts", Stopping(step=4))
        assert all(map(torch.equal, whole, run(tmp_path / "parts", pv.ELBO(), resume=True)))


def test_a_checkpoint_of_one_device_loads_on_the_other(digits, tmp_path):
    config, program = build(digits)
    with pretend():
        pv.fit(program, digits.train.head(60), epochs=1, device="cuda", out=tmp_path, config=config)
        there = pv.load_run(tmp_path, device="cuda").vae
        here = pv.load_run(tmp_path).vae
        assert there.device.type == "cuda"
        assert here.device.type == "cpu"
        assert torch.equal(here.sample(3, seed=0), there.sample(3, seed=0).cpu())


def test_the_store_of_pyro_follows_what_is_trained_elsewhere(digits):
    """The parameters that log_evidence of the two functions finds are the trained ones."""
    x = digits.train.x[:60].flatten(1)

    def compute(where):
        program = pv.as_program(Stored.model, Stored.guide, x)
        pv.fit(program, x, epochs=3, learning_rate=0.1, device=where)
        stored = dict(pyro.get_param_store().items())
        assert stored["loc"].abs().sum() > 1
        assert all(value.device.type == where.type for value in stored.values())
        found = pv.log_evidence(Stored.model, Stored.guide, x[:5].to(where), samples=50)
        return [*stored.values(), found.log_px]

    same_on_both(compute)


def test_the_store_of_pyro_follows_to_another_type(digits):
    x = digits.train.x[:60].flatten(1)
    program = pv.as_program(Stored.model, Stored.guide, x).double()
    with torch.no_grad():
        program.stored[program.places["loc"]].add_(1.0)
    assert pyro.param("loc").dtype == torch.float64
    assert torch.equal(pyro.param("loc"), torch.ones(64).double())


@pytest.mark.parametrize("program", ["conditional", "semi-supervised"])
def test_wrong_labels_are_named_before_a_gpu_looks_at_them(digits, program):
    with pretend():
        config, model = build(digits, program=program)
        objective = pv.objectives.objective_of(config)
        x, y = digits.train.x[:20], digits.train.y[:20].clone()
        y[7] = 10
        with pytest.raises(ValueError, match="got 10 in row 7"):
            pv.fit(model, (x, y), objective=objective, epochs=1, device="cuda")
        with pytest.raises(ValueError, match="got 10 in row 7"):
            pv.log_evidence(model.model, model.guide, (x, y), samples=10)


def test_a_loss_that_is_not_finite_names_its_step(digits, tmp_path):
    """It is seen later, when the parameters are no numbers either."""

    class Poisoned(pv.ELBO):
        steps = 0

        def terms(self, *args, **kwargs):
            loss, elbo = super().terms(*args, **kwargs)
            Poisoned.steps += torch.is_grad_enabled()
            bad = torch.nan if Poisoned.steps == 3 else 1.0
            return bad * loss, bad * elbo

    program = build(digits)[1]
    with pretend(), pytest.raises(pv.NonFiniteLoss, match="epoch 1, step 3"):
        pv.fit(program, digits.train, objective=Poisoned(), epochs=1, device="cuda", out=tmp_path)


def test_convolutions_of_float32_keep_their_bits(digits):
    kinds = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    seen = []

    class Looking(pv.ELBO):
        def terms(self, *args, **kwargs):
            seen.extend(kind.fp32_precision for kind in kinds)
            return super().terms(*args, **kwargs)

    before = [kind.fp32_precision for kind in kinds]
    with exact_convolutions():  # no GPU: nothing to set
        assert [kind.fp32_precision for kind in kinds] == before
    with pretend():
        program = build(digits)[1]
        pv.fit(program, digits.train.head(20), objective=Looking(), epochs=1, device="cuda")
    assert set(seen[-4:]) == {"ieee"}
    assert [kind.fp32_precision for kind in kinds] == before


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    with pretend(devices=2):
        assert resolve_device("auto") == torch.device("cuda")
        monkeypatch.setenv("WORLD_SIZE", "4")
        found = []
        for rank in range(4):
            monkeypatch.setenv("LOCAL_RANK", str(rank))
            found.append(resolve_device("auto").index)
            assert resolve_device("cuda:1") == torch.device("cuda", 1)
            assert resolve_device("cpu") == torch.device("cpu")
        assert found == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("here", "backend"), [(2, "cpu:gloo,cuda:nccl"), (4, "cpu:gloo,cuda:gloo")]
)
def test_processes_share_gpus_where_there_are_too_few(monkeypatch, here, backend):
    """NCCL refuses two processes on one GPU."""
    asked = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", asked.append)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: here)
    monkeypatch.setattr("atexit.register", lambda function: None)
    for name, value in {"WORLD_SIZE": here, "LOCAL_WORLD_SIZE": here, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pretend(devices=2):
        assert Processes.join() == Processes(1, here)
        assert torch.cuda.current_device() == 1
    assert asked == [backend]


def test_a_group_of_nccl_alone_sends_from_the_gpu(monkeypatch):
    sent = []
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: "cuda:nccl")
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda t: (sent.append(t.device.type), t.mul_(2))
    )
    with pretend():
        assert Processes(0, 2).any(True, False) == [True, False]
    assert sent == ["cuda"]
