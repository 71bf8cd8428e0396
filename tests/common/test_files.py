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


def test_changed_json_is_seen(tmp_path):
    """Whatever bit is flipped: the same content, or an error that names the file."""
    content = {"a": [1.5, 2, None, "é"], "b": {"c": True, "d": -0.25}}
    path = files.write_json(tmp_path / "a.json", content)
    good = path.read_bytes()
    refused = 0
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            found = files.read_json(path)
        except ValueError as error:
            refused += str(path) in str(error)
            continue
        # a changed name of the entry with the hash makes it an entry like others
        assert {name: found[name] for name in content} == content
    assert refused > 0.8 * len(good)


def test_json_changed_by_hand_says_what_to_do(tmp_path):
    path = files.write_json(tmp_path / "a.json", {"a": 1})
    path.write_text(path.read_text().replace('"a": 1', '"a": 2'))
    with pytest.raises(ValueError, match=r'a\.json .* by hand \(then take its entry "sha256" out'):
        files.read_json(path)
    path.write_text('{"a": 2}')
    assert files.read_json(path) == {"a": 2}
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json is no JSON"):
        files.read_json(path)


@pytest.mark.parametrize("links", [True, False])
def test_old_content_is_kept_under_another_name(links, tmp_path, monkeypatch):
    def no_links(self, target):
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr(files.Path, "hardlink_to", no_links)
    path = tmp_path / "a"
    for text in (b"one", b"two", b"three"):
        files.write_atomically(path, lambda file, text=text: file.write(text), keep="b")
    assert (path.read_bytes(), (tmp_path / "b").read_bytes()) == (b"three", b"two")
    if links:  # killed between the two steps: both names are of one file
        (tmp_path / "b").unlink()
        (tmp_path / "b").hardlink_to(path)
        files.write_atomically(path, lambda file: file.write(b"four"), keep="b")
        assert (path.read_bytes(), (tmp_path / "b").read_bytes()) == (b"four", b"three")
    with pytest.raises(ZeroDivisionError):
        files.write_atomically(path, lambda file: 1 / 0, keep="b")
    assert (tmp_path / "b").read_bytes() == (b"three" if links else b"two")
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "b"]


def test_only_ones_own_leftovers_are_swept(tmp_path):
    for name in (".a.tmp-1", ".a.b.tmp-2", ".b.tmp-3", "a.tmp-4"):
        (tmp_path / name).touch()
    files.sweep(tmp_path, "a")
    assert {path.name for path in tmp_path.iterdir()} == {".a.b.tmp-2", ".b.tmp-3", "a.tmp-4"}
