"""Output that nobody reads to its end."""

import os
import signal
import subprocess
import sys

import pytest

_COMMAND = [sys.executable, "-c", "from pyro_vae.cli import main; raise SystemExit(main())"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_a_closed_pipe_ends_quietly(arguments):
    """As ``pyro-vae ... | head`` closes it, here before the first line."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*_COMMAND, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_command_in_the_middle_of_its_output(monkeypatch, capsys):
    from pyro_vae import cli
    from pyro_vae.runs import run as runs

    def closed(*folders):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(runs, "compare_runs", closed)
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    assert cli.main(["compare", "a"]) == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""
