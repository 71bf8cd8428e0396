import json

import pytest

from pyro_vae.common import files


def test_old_content_survives_a_failure(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fail(file):
        file.write(b"half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*a.txt.*No space left"):
        files.write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ZeroDivisionError):
        files.write_atomically(path, lambda file: 1 / 0)
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan(tmp_path):
    path = files.write_json(
        tmp_path / "new" / "a.json", {"a": float("nan"), "b": [float("inf"), 1]}
    )
    assert files.read_json(path) == {"a": None, "b": [None, 1]}
    assert json.loads(path.read_text())["b"] == [None, 1]


def test_mode_is_the_usual_one(tmp_path):
    (tmp_path / "plain").write_text("")
    path = files.write_text(tmp_path / "ours", "")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
