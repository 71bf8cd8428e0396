"""Published tables: presets that can be built, and a table that is gone on with."""

import json
import re
import shlex
from dataclasses import replace

import pytest

import pyro_vae as pv
from pyro_vae.cli.main import _parse
from pyro_vae.common.settings import CertificateSettings
from pyro_vae.runs import publications, published
from pyro_vae.runs.certificate import certify_run


@pytest.mark.parametrize("name", publications.PUBLISHED)
def test_models_of_tables_can_be_built(name):
    table = publications.PUBLISHED[name]
    for row in table.rows.values():
        config = replace(table.config, hidden=(4, 4), latent_dim=3, **dict(row.settings))
        config = replace(config, top_dim=config.top_dim and 2)
        if config.prior in ("vamp", "exemplar"):
            config = replace(config, prior_components=3)
        else:
            config = replace(config, prior_components=None)
        pv.build_program(config, event_shape=(4, 4), data=pv.load("digits").train.x[:, :4, :4])
        assert pv.objectives.objective_of(config) is not None
        assert -150 < row.published < -50
    assert table.short < table.config.epochs


@pytest.mark.filterwarnings("ignore::pyro_vae.UnreliableEvidence")
def test_a_table_is_made_and_gone_on_with(tmp_path, monkeypatch):
    tiny = pv.Config(latent_dim=2, hidden=(8,), epochs=50, kl_warmup=4, prior_components=5)
    rows = {
        "N(0, I)": publications.Row(-20.0, {}),
        "VampPrior": publications.Row(-19.0, {"prior": "vamp"}),
    }
    table = publications.Published("a paper", tiny, rows, short=2, differs="everything.")
    monkeypatch.setitem(publications.PUBLISHED, "tiny", table)
    few = CertificateSettings(number=3, temperatures=4, chains=4, samples=60)
    effort = published._Effort(by_guide=20, by_auto=6, certificate=few, samples=60)
    monkeypatch.setattr(published, "_SHORT", effort)
    said = []
    text = published.reproduce("tiny", tmp_path / "t", short=True, say=said.append, progress=False)
    content = json.loads((tmp_path / "t" / "table.json").read_text())
    assert list(content["rows"]) == ["N(0, I)", "VampPrior"]
    record = content["rows"]["VampPrior"]
    run = pv.load_run(tmp_path / "t" / "VampPrior")
    test = pv.load("digits").test
    again = pv.log_evidence(run.vae.model, run.vae.guide, test.head(20), samples=60, seed=0)
    assert record["log_px"] == pytest.approx(again.mean().value, abs=1e-9)
    assert record["uncorrected"] == pytest.approx(again.log_px.mean().item(), abs=1e-9)
    assert (record["epochs"], record["published"]) == (2, -19.0)
    page = (tmp_path / "t" / "table.md").read_text()
    for word in (
        "a paper",
        "everything.",
        "VampPrior",
        f"{record['log_px']:.2f}",
        "reproduce tiny",
    ):
        assert word in page
    written = re.search(r"`pyro-vae (.*)`", page)[1].replace("tiny", "vampprior")
    assert _parse(shlex.split(written)).out == tmp_path / "t"  # the command of the page is one
    assert f"{record['log_px']:.2f}" in text
    before = (tmp_path / "t" / "VampPrior" / "auto.json").stat().st_mtime_ns
    with monkeypatch.context() as patched:
        for name in ("log_evidence", "certify_run"):  # nothing is estimated again
            patched.setattr(published, name, None)
        again = published.reproduce(
            "tiny", tmp_path / "t", short=True, progress=False, say=said.append
        )
    assert again == text
    assert (tmp_path / "t" / "VampPrior" / "auto.json").stat().st_mtime_ns == before
    one, other = tmp_path / "t" / "N(0-I)", tmp_path / "t" / "VampPrior"
    # What is of another model, or was made with other settings, is made again.
    (other / "auto.json").write_text((one / "auto.json").read_text())
    certify_run(other, replace(few, temperatures=1))
    published.reproduce("tiny", tmp_path / "t", short=True, rows=["VampPrior"], say=said.append)
    content = json.loads((tmp_path / "t" / "table.json").read_text())
    found = {**content["rows"]["VampPrior"], "evaluation_seconds": record["evaluation_seconds"]}
    assert found == pytest.approx(record, rel=1e-6)
    with pytest.raises(ValueError, match=r"unknown table 'tny'.*tiny"):
        published.reproduce("tny", tmp_path / "u")
    with pytest.raises(ValueError, match="unknown model"):
        published.reproduce("tiny", tmp_path / "u", rows=["other"])
