"""The help of each command: short, in groups, with the values that options have otherwise."""

import dataclasses
import inspect
import re
from typing import get_type_hints

import pytest

import pyro_vae as pv
from pyro_vae import cli
from pyro_vae.networks import NETWORKS


def _help(command, capsys):
    assert cli.main([command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_short_and_says_no_none(command, capsys):
    text = _help(command, capsys)
    assert len(text.splitlines()) < 100
    assert all(len(line) <= 120 for line in text.splitlines())
    assert "None" not in text
    assert text.startswith(f"usage: pyro-vae {command}")
    assert cli.main([command, "RUN", "-h"]) == 0


def test_options_of_fit_are_in_groups(capsys):
    text = _help("fit", capsys)
    groups = re.findall(r"^(\w+):$", text, flags=re.M)
    assert groups == ["data", "model", "objective", "training", "run"]
    parts = dict(zip(groups, re.split(r"^\w+:$", text, flags=re.M)[1:], strict=True))
    own = {"data": "--binarize", "model": "--prior.components", "objective": "--particles"}
    own |= {"training": "--learning-rate", "run": "--out RUN"}
    for group, option in own.items():
        assert [name for name in groups if f"  {option}" in parts[name]] == [group]


def test_every_option_is_there(capsys):
    text = _help("fit", capsys)
    for field in dataclasses.fields(pv.Config):
        if field.name in (
            "likelihood_schema",
            "class_names",
        ):  # written by the package, not by hand
            continue
        extras = get_type_hints(pv.Config, include_extras=True)[field.name]
        named = [e.name for e in getattr(extras, "__metadata__", ()) if getattr(e, "name", None)]
        name = named[0] if named else field.name.replace("_", "-")
        assert re.search(rf"^  --{re.escape(name)}\b", text, flags=re.M), name


def _hint(name):
    extras = get_type_hints(pv.Config, include_extras=True)[name].__metadata__
    return next(e.help_behavior_hint for e in extras if hasattr(e, "help_behavior_hint"))


def _number(value):
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def test_defaults_of_parts_are_those_of_their_constructors():
    tables = {"prior": pv.priors.PRIORS, "likelihood": pv.likelihoods.LIKELIHOODS}
    tables["posterior"] = pv.posteriors.POSTERIORS
    looked_at = 0
    for part, table in tables.items():
        for constructor in table.values():
            for option in inspect.signature(constructor).parameters.values():
                known = f"{part}_{option.name}" in get_type_hints(pv.Config)
                known = known and option.name != "schema"
                if option.kind is option.KEYWORD_ONLY and option.default is not None and known:
                    words = _hint(f"{part}_{option.name}").replace(",", " ").replace(";", " ")
                    assert _number(option.default) in words.split(), (part, option)
                    looked_at += 1
    assert looked_at > 20
    alpha = inspect.signature(pv.Renyi).parameters["alpha"].default
    assert _hint("alpha") == _number(alpha)


def test_defaults_of_networks_are_those_of_their_constructors():
    for name, pair in NETWORKS.items():
        options = inspect.signature(pair.encoder).parameters
        widths = " ".join(map(str, options["hidden"].default))
        assert re.search(rf"{name}\b[^,]* {widths}", _hint("hidden")), name
    assert _hint("activation") == "mlp tanh, conv gelu"
    assert inspect.signature(NETWORKS["mlp"].encoder).parameters["activation"].default == "tanh"


def test_a_switch_that_is_on_shows_how_to_turn_it_off(capsys):
    text = _help("evaluate", capsys)
    assert re.search(r"--no-search +Do not look for posterior mass", text)
