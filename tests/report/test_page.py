"""What the page computes is what PyTorch computes; it asks for nothing and runs nothing foreign."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

import pyro_vae as pv
from pyro_vae.evidence import diagnostics
from pyro_vae.report import Subject, write_report
from pyro_vae.report.families import KNOWN_LIKELIHOODS
from pyro_vae.report.words import facts

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")

_LATENTS, _NUMBER = 3, 12
_LEVELS = {"discretized-logistic", "logistic-mixture"}
_OF_ANY = {"normal", "laplace", "student-t"}
# Every part that the page knows, once.
_MODELS = {
    "mlp": {"hidden": (9, 7)},
    "gated": {"network": "gated", "hidden": (6,), "prior": "mixture", "posterior": "full"},
    "conv": {"network": "conv", "hidden": (2, 3), "prior": "vamp"},
    "residual": {"network": "residual", "hidden": (2, 3), "prior": "student-t"},
    "low-rank": {"hidden": (5,), "posterior": "low-rank"},
    "relu": {"activation": "relu", "hidden": (5,), "prior": "laplace"},
    "softplus": {"activation": "softplus", "hidden": (5,), "prior": "diagonal"},
    "silu": {"activation": "silu", "hidden": (5,), "prior": "exemplar"},
    "scales": {"likelihood": "normal", "likelihood_scale": "network", "hidden": (5,)},
    **{
        name: {"likelihood": name, "hidden": (5,)}
        for name in KNOWN_LIKELIHOODS
        if name != "bernoulli"
    },
}


def _model(options, x, seed=0):
    """A model away from its start, where no part of it is zero or one."""
    parts = {"latent_dim": _LATENTS, "seed": seed, **options}
    if parts.get("prior") in ("mixture", "vamp", "exemplar"):
        parts["prior_components"] = 5
    model = pv.VAE.from_config(pv.Config(**parts), event_shape=x.shape[1:], data=x)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def _subject(name, model, data, **options):
    codes = model.encode(data.x)
    pictures = {"reconstructions": model.decode(codes), "decode": model.decode}
    return Subject(name, model, f"A model, {name}.", codes, **{**pictures, **options})


@pytest.fixture(scope="module")
def data(digits):
    return digits.test.head(_NUMBER)


@pytest.fixture(scope="module")
def models(data, digits):
    return {name: _model(options, digits.train.x[:200]) for name, options in _MODELS.items()}


@pytest.fixture(scope="module")
def page(browser, models, data, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    subjects = [_subject(name, model, data) for name, model in models.items()]
    browser.open(write_report(path, subjects, data, title="Models"))
    return browser


def _data_for(name, generator):
    shape = (8, 8)
    likelihood = _MODELS[name].get("likelihood", "bernoulli")
    if likelihood == "bernoulli":
        return torch.randint(2, shape, generator=generator).double()
    if likelihood in _OF_ANY:
        return 2 * torch.randn(shape, generator=generator).double()
    whole = torch.randint(256, shape, generator=generator).double()
    return whole / 255 if likelihood in _LEVELS | {"continuous-bernoulli"} else whole


@pytest.mark.parametrize("name", list(_MODELS))
def test_the_page_computes_what_torch_computes(name, page, models):
    model = copy.deepcopy(models[name]).double()
    generator = torch.Generator().manual_seed(len(name))
    z = torch.randn(_LATENTS, generator=generator).double()
    x = _data_for(name, generator)
    code = torch.randint(2, (8, 8), generator=generator).double()  # what an encoder was made for
    script = f"""(() => {{
      const model = pyroVae.models[{list(_MODELS).index(name)}];
      const [x, z, code] = {json.dumps([one.flatten().tolist() for one in (x, z, code)])};
      const q = model.encode(code), n = model.latents;
      return {{
        mean: [...model.decode(z)[0]],
        log_likelihood: model.logLikelihood(x, z),
        log_prior: model.prior(z, 0),
        log_posterior: q.logDensity(z),
        posterior_mean: [...q.mean],
        covariance: Array.from({{length: n * n}}, (_, k) => q.covariance(Math.floor(k / n), k % n)),
        deviation: model.deviation,
      }};
    }})()"""
    found = page.run(script)
    with torch.no_grad():
        px, q = model.likelihood(z), model.posterior(code)
        base = q.base_dist.scale.square().diag() if _is_diagonal(q) else q.covariance_matrix
        expected = {
            "mean": px.mean.flatten(),
            "log_likelihood": px.log_prob(x),
            "log_prior": model.prior().log_prob(z),
            "log_posterior": q.log_prob(z),
            "posterior_mean": q.mean,
            "covariance": base.flatten(),
        }
    for what, value in expected.items():
        got = torch.tensor(found[what], dtype=torch.float64)
        assert torch.allclose(got, value, rtol=1e-5, atol=1e-5), (what, got, value)
    assert found["deviation"] < 1e-4


def _is_diagonal(q):
    return hasattr(q, "base_dist")


@pytest.mark.parametrize("tail", [0.2, 0.9])
def test_diagnostics_are_those_of_the_package(tail, page):
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(600, generator=generator, dtype=torch.float64)
    log_weights = -tail * draws.log() - 3  # a Pareto tail of known shape
    found = page.run(f"pyroVae.diagnose(Float64Array.from({log_weights.tolist()}))")
    rows = log_weights[:, None]
    expected = {
        "plain": diagnostics.log_mean_exp(rows),
        "logPx": diagnostics.jackknife(rows),
        "standardError": diagnostics.standard_error(rows),
        "ess": diagnostics.effective_sample_size(rows),
        "k": diagnostics.pareto_k(rows),
        "elbo": rows.mean(0),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-9), name
    assert found["limit"] == pytest.approx(diagnostics.pareto_k_threshold(600))
    doubt = page.run(
        f"pyroVae.doubtOf(pyroVae.diagnose(Float64Array.from({log_weights.tolist()})))"
    )
    assert doubt == ("heavy tail" if tail > 0.7 else "")


@pytest.mark.parametrize("name", ["gated", "conv"])
def test_log_px_agrees_with_log_evidence(name, page, models, data):
    """Independent draws: within 4 of their standard errors, one by one and together."""
    x, model = data.x[:6], models[name]
    evidence = pv.log_evidence(model.model, model.guide, x, samples=2000, seed=1)
    estimate = f"models[{list(_MODELS).index(name)}].estimate(pyroVae.datum(i), 1500, i + 5)"
    found = page.run(f"[...Array(6).keys()].map((i) => pyroVae.{estimate})")
    values = torch.tensor([one["logPx"] for one in found], dtype=torch.float64)
    errors = torch.tensor([one["standardError"] for one in found], dtype=torch.float64)
    z = (values - evidence.corrected()) / (errors**2 + evidence.standard_error**2).sqrt()
    assert z.abs().max() < 4
    assert z.sum().abs() / math.sqrt(len(x)) < 4
    assert errors.min() > 0


def test_the_page_asks_for_nothing_and_says_everything(page):
    assert [url.partition(":")[0] for url in page.requests] == ["file"]
    assert page.errors == []
    page.wait("document.getElementById('live-facts').textContent.startsWith('draws5,000')")
    assert "agrees with PyTorch" in page.run("document.getElementById('agreement').textContent")
    unnamed = """[...document.querySelectorAll('svg, canvas')].filter((one) =>
      !one.getAttribute('aria-label') && !one.closest('[aria-hidden], [aria-label]')
      && one.getAttribute('aria-hidden') !== 'true').length"""
    assert page.run(unnamed) == 0
    assert page.run("document.querySelectorAll('label, select, button').length") > 10


def test_a_datum_that_is_drawn(page):
    """With the mouse and with the keyboard: another datum, another log p(x)."""
    page.run("pyroVae.choose(3, false)")
    page.run(
        "document.getElementById('pad').scrollIntoView({behavior: 'instant', block: 'center'})"
    )
    before = page.run("pyroVae.x.join()")
    box = page.run(
        "(({left, top, width}) => [left, top, width])(document.getElementById('pad')"
        ".getBoundingClientRect())"
    )
    for kind, at in (("mousePressed", 0.2), ("mouseMoved", 0.5), ("mouseReleased", 0.5)):
        page.send(
            "Input.dispatchMouseEvent",
            type=kind,
            x=box[0] + at * box[2],
            y=box[1] + 0.4 * box[2],
            button="left",
            buttons=1,
            clickCount=1,
        )
    assert page.run("pyroVae.index") is None
    drawn = page.run("pyroVae.x.join()")
    assert drawn != before
    page.run("document.getElementById('pad').focus()")
    for key in ("ArrowRight", " "):
        page.send("Input.dispatchKeyEvent", type="keyDown", key=key)
    assert page.run("pyroVae.x.join()") != drawn
    page.run("document.getElementById('restore').click()")
    assert page.run("pyroVae.x.join()") == before


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_window_and_both_themes(dark, browser, data, models, tmp_path):
    path = write_report(tmp_path / "r.html", [_subject("m", models["mlp"], data)], data, title="r")
    browser.open(path, width=400, dark=dark)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert (browser.run(brightness) < 100) == dark
    browser.run("document.getElementById('theme').click()")
    assert (browser.run(brightness) < 100) != dark
    assert browser.errors == []


_HOSTILE = '</script><script>window.ran=1</script><img src=x onerror="window.ran=1">{{7*7}}\''


@pytest.mark.parametrize("policy", [True, False], ids=["as it is", "without its policy"])
def test_hostile_strings_do_not_run(policy, browser, data, models, tmp_path):
    """Escaping alone keeps them out, and so would the page's content policy."""
    evidences, subjects, model = {}, [], models["mlp"]
    for i, name in enumerate((_HOSTILE, f"{_HOSTILE} two")):
        one = pv.log_evidence(model.model, model.guide, data, samples=50, seed=i)
        evidences[name] = replace(one, data=_HOSTILE)
        subjects.append(
            _subject(
                name,
                model,
                data,
                evidence=evidences[name],
                facts=facts(evidences[name]),
                advice=[(_HOSTILE, _HOSTILE)],
                history={"epoch": [1, 2], "train_elbo": [-3, -2], "valid_elbo": [-3, -2]},
            )
        )
    comparison = pv.compare(evidences)
    path = tmp_path / "r.html"
    write_report(path, subjects, data, comparison=comparison, title=_HOSTILE, lead=_HOSTILE)
    if not policy:
        text = path.read_text()
        path.write_text(text.replace("Content-Security-Policy", "nothing"))
    browser.open(path)
    browser.run("new Promise((resolve) => setTimeout(resolve, 100))")
    assert browser.run("typeof window.ran") == "undefined"
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.querySelector('h1').textContent") == _HOSTILE
    assert _HOSTILE in browser.run("document.querySelector('#forest svg').ariaLabel")
    assert browser.errors == []
    assert len(browser.requests) == 1


def test_parts_that_the_page_does_not_know(browser, data, tmp_path, digits):
    """Pictures in their place, and a sentence."""
    flow = _model({"hidden": (5,), "posterior": "hierarchical", "latent_dim": 4}, digits.train.x)
    path = write_report(tmp_path / "r.html", [_subject("flow", flow, data)], data, title="r")
    browser.open(path)
    assert browser.errors == []
    said = browser.run("document.getElementById('agreement').textContent")
    assert said == "Pictures only: the page does not know the posterior HierarchicalPosterior."
    assert browser.run("document.getElementById('live').hidden")
    pictures = browser.run("[...pyroVae.picture(pyroVae.model.pictures.reconstructions, 5)]")
    with torch.no_grad():
        expected = flow.reconstruct(data.x)[5].flatten()
    torch.testing.assert_close(torch.tensor(pictures), expected, rtol=0, atol=2e-3)
    grid = browser.run("pyroVae.model.pictures.grid")
    z = flow.encode(data.x).mean(0)
    for axis, line in zip(grid["axes"], grid["lines"], strict=True):
        z[axis] = line[4]
    shown = browser.run(f"[...pyroVae.decode({z.tolist()})]")
    torch.testing.assert_close(torch.tensor(shown), flow.decode(z).flatten(), rtol=0, atol=2e-3)


def test_vectors_one_latent_and_no_labels(browser, tmp_path):
    """Rows of bars that nobody can draw in, and a line in place of a plane."""
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    model = _model({"likelihood": "normal", "latent_dim": 1, "hidden": (4,)}, x)
    data = pv.Data(x, name="rows", split="test")
    browser.open(write_report(tmp_path / "r.html", [_subject("m", model, data)], data, title="r"))
    browser.wait("document.getElementById('live-facts').textContent.startsWith('draws5,000')")
    assert browser.errors == []
    for name in ("clear", "show-plane", "curves"):
        assert browser.run(f"document.getElementById('{name}').offsetParent === null"), name
    browser.run("document.getElementById('plane').focus()")
    before = browser.run("pyroVae.z[0]")
    browser.send("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert browser.run("pyroVae.z[0]") > before
    browser.send("Input.dispatchKeyEvent", type="keyDown", key="Enter")
    assert browser.errors == []


def test_half_precision_is_half_the_size_and_says_so(browser, data, models, tmp_path):
    subject = _subject("m", models["conv"], data)
    sizes = {}
    for weights in ("float32", "float16"):
        path = tmp_path / f"{weights}.html"
        write_report(path, [subject], data, title="r", weights=weights)
        browser.open(path)
        sizes[weights] = browser.run("pyroVae.models[0].live.weights.base64.length")
    assert sizes["float16"] == pytest.approx(sizes["float32"] / 2, abs=4)
    assert "rounded to float16" in browser.run("document.getElementById('agreement').textContent")
    assert 1e-7 < browser.run("pyroVae.models[0].deviation") < 0.05
