"""How long is left is said only after enough of the work to know it."""

import pytest

from pyro_vae.common import progress


@pytest.mark.parametrize(("done", "told"), [(1, False), (2, True)])
def test_the_time_left_is_not_told_by_the_first_items(done, told, monkeypatch, capsys):
    """Of 1,000 items the first has taken half a minute, most of it to compile."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress(1000, "training", "steps") as shown:
        now[0] += 30.0
        shown.update(done)
    said = capsys.readouterr().err
    assert f"training: {done} of 1000 steps after 30 s" in said
    assert ("left" in said) == told
