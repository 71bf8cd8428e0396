"""Folders of pictures, data sets of pictures, and where the channels are."""

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vae as pv
from pyro_vae.data import as_source, load_rows
from pyro_vae.data.pictures import read_pictures
from pyro_vae.data.stored import Stored


def _levels(number, *shape):
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A folder of pictures; call it with a name and levels to add one."""
    root = tmp_path / "pictures"
    root.mkdir()

    def add(name, levels, **options):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(path, **options)
        return path

    add.root = root
    return add


def test_a_folder_of_colours(folder):
    levels = [_levels(n, 9, 7, 3) for n in range(20)]
    for number, one in enumerate(levels):
        folder(f"{number:02}.png", one)
    splits = pv.load(folder.root)
    assert [len(split) for split in splits] == [17, 1, 2]
    assert splits.train.event_shape == (3, 9, 7)
    assert splits.test.description == "pictures test, gray in [0, 1]"
    everything = torch.cat([split.x for split in splits]).mul(255).round().byte()
    known = {one.transpose(2, 0, 1).tobytes() for one in levels}
    assert {one.numpy().tobytes() for one in everything} == known
    assert splits.train.y is None


def test_classes_are_folders(folder):
    for number in range(12):
        folder(f"{'cat' if number % 3 else 'ant'}/{number}.PNG", np.full((4, 5), number, np.uint8))
    splits = pv.load(folder.root, binarize="none")
    for split in splits:
        assert split.event_shape == (4, 5)
        assert torch.equal(split.y, (split.x[:, 0, 0].long() % 3 > 0).long())


def test_splits_are_folders(folder):
    for split, number in (("train", 12), ("test", 3)):
        for n in range(number):
            folder(f"{split}/{'ba'[n % 2]}/{n}.png", np.full((4, 4), n, np.uint8))
    train, valid, test = pv.load(folder.root, binarize="none")
    assert (len(train), len(valid), len(test)) == (11, 1, 3)
    assert test.y.tolist() == [0, 1, 1]  # a before b
    assert test.x[:, 0, 0].tolist() == [1, 0, 2]


def test_names_of_splits(folder):
    for split, number in (("Train", 3), ("VAL", 2), ("testing", 1)):
        for n in range(number):
            folder(f"{split}/{n}.png", np.full((4, 4), n, np.uint8))
    assert [len(split) for split in pv.load(folder.root)] == [3, 2, 1]
    loose = folder("0.png", _levels(0, 4, 4))
    with pytest.raises(ValueError, match=r"pictures \(0.png, ...\) beside the folders of splits"):
        pv.load(folder.root)
    loose.unlink()
    folder("valid/0.png", _levels(0, 4, 4))  # beside VAL
    with pytest.raises(ValueError, match="holds the folders Train, VAL, testing, valid; expected"):
        pv.load(folder.root)


@pytest.mark.parametrize("names", [("Train", "other"), ("test", "cat")])
def test_splits_are_not_taken_for_classes(folder, names):
    for name in names:
        folder(f"{name}/0.png", _levels(0, 4, 4))
    with pytest.raises(ValueError, match=f"the folders {', '.join(sorted(names))}; expected train"):
        pv.load(folder.root)


def test_formats(folder):
    for number, suffix in enumerate(("png", "bmp", "tif", "tiff")):
        folder(f"{number}.{suffix}", np.full((4, 4), 10 * number, np.uint8))
    found = torch.cat([split.x for split in pv.load(folder.root, binarize="none")])
    assert found[:, 0, 0].sort().values.tolist() == [0, 10, 20, 30]
    (folder.root / "a.heic").write_bytes(b"")
    (folder.root / "b.svg").write_bytes(b"")
    (folder.root / "notes.txt").write_bytes(b"")
    with pytest.warns(pv.PyroVAEWarning, match=r"2 pictures of other formats \(a.heic, ...\)"):
        pv.load(folder.root)
    for name in ("a.heic", "b.svg"):
        (folder.root / name).unlink()
    more = [Image.fromarray(_levels(0, 4, 4))]
    path = folder("moves.gif", _levels(1, 4, 4), save_all=True, append_images=more)
    with pytest.raises(ValueError, match=r"moves.gif cannot be read as a picture: it has several"):
        read_pictures(path.parent)


def test_arrays_are_prepared_like_pictures(folder, tmp_path):
    """Bytes of an array are divided by 255 where those of the pictures are, and only there."""
    for n in range(3):
        folder(f"{n}.png", _levels(n, 4, 4))
    levels = _levels(9, 5, 4, 4)
    for kind in ("u1", "i8"):
        np.save(tmp_path / "x.npy", levels.astype(kind))
        like = load_rows(tmp_path / "x.npy", like=folder.root)
        assert torch.equal(like.x, torch.from_numpy(levels).float() / 255)
        assert like.binarization == "gray"
        assert load_rows(folder.root, like=tmp_path / "x.npy").x.max() > 1
    np.save(tmp_path / "x.npy", levels * 1.0)
    with pytest.raises(ValueError, match=r"; scale the data as those of .*pictures, whi"):
        load_rows(tmp_path / "x.npy", like=folder.root)


def test_kinds_of_files(folder):
    gray = _levels(0, 6, 6)
    folder("0.png", gray)
    Image.fromarray(gray > 127).save(folder.root / "1.png")  # 1 bit
    folder("2.jpg", np.full((6, 6), 77, np.uint8), quality=95)
    splits = pv.load(folder.root, binarize="none", validation=0)
    assert splits.train.event_shape == (6, 6)
    values = {tuple(x.flatten().tolist()) for split in splits for x in split.x}
    assert tuple(gray.flatten().astype(float)) in values
    assert tuple(((gray > 127) * 255.0).flatten()) in values
    assert (77.0,) * 36 in values


def test_large_folders_are_read_as_they_are_used(folder, monkeypatch):
    for number in range(20):
        folder(f"{number % 2}/{number:02}.png", _levels(number, 8, 8, 3))
    inside = pv.load(folder.root)
    monkeypatch.setattr("pyro_vae.data.loading.LARGE", 8)
    outside = pv.load(folder.root)
    for a, b in zip(inside, outside, strict=True):
        assert isinstance(b.x, Stored)
        assert torch.equal(a.x, b.in_memory().x)
        assert torch.equal(a.y, b.y)
        assert a.sha256 == b.sha256


def _break(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            lambda add: add("1.png", _levels(0, 8, 9)),
            r"0\.png is 8x8 and gray, and .*1\.png is 9x8",
        ),
        (lambda add: add("1.png", _levels(0, 8, 8, 3)), r"1\.png is 8x8 and of 3 colours; all"),
        (
            lambda add: _break(add("1.jpg", _levels(0, 8, 8)), 300),
            r"1\.jpg cannot be read as a pic",
        ),
        (lambda add: _break(add("1.png", _levels(0, 8, 8)), 60), r"1\.png cannot be read as a pic"),
        (lambda add: _break(add("1.png", _levels(0, 8, 8)), 0), r"1\.png cannot be read as a pic"),
        (
            lambda add: add("a/1.png", _levels(0, 8, 8)),
            r"pictures \(0\.png, \.\.\.\) beside folders",
        ),
        (
            lambda add: add("1.png", _levels(0, 8, 8).astype("u2")),
            r"1\.png is a picture of kind I;16",
        ),
    ],
    ids=["size", "colours", "cut jpeg", "cut png", "empty", "beside folders", "16 bits"],
)
def test_wrong_pictures(folder, more, message):
    folder("0.png", _levels(1, 8, 8))
    more(folder)
    with pytest.raises(ValueError, match=message) as caught:
        pv.load(folder.root)
    assert "\n" not in str(caught.value)


def test_wrong_folders(folder):
    (folder.root / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"holds no pictures \(\.png, \.jpg, .*\)"):
        pv.load(folder.root)
    folder("train/a/0.png", _levels(0, 4, 4))
    folder("test/b/0.png", _levels(0, 4, 4))
    with pytest.raises(ValueError, match=r"test.b is a class that the training data do not have"):
        pv.load(folder.root)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((9, 8, 8, 3), (3, 8, 8)),
        ((9, 9, 11, 1), (1, 9, 11)),
        ((9, 8, 10, 4), (4, 8, 10)),
        ((9, 3, 8, 8), (3, 8, 8)),
        ((9, 1, 8, 8), (1, 8, 8)),
        ((9, 8, 8, 5), (8, 8, 5)),
        ((9, 8, 3), (8, 3)),
    ],
)
@pytest.mark.parametrize("kind", ["u1", "f4"])
def test_channels(tmp_path, shape, found, kind):
    array = _levels(0, *shape).astype(kind)
    np.save(tmp_path / "x.npy", array)
    moved = found != shape[1:]
    if moved:
        with pytest.warns(pv.PyroVAEWarning, match="channels last, and is read as"):
            splits = pv.load(tmp_path / "x.npy")
        again = pv.load(tmp_path / "x.npy", layout="channels-last")  # nothing to say
        assert torch.equal(again.train.x, splits.train.x)
    else:
        splits = pv.load(tmp_path / "x.npy")
    assert splits.train.event_shape == found
    x = torch.cat([split.x for split in splits])
    expected = torch.from_numpy(array).float()
    expected = expected.movedim(-1, 1) if moved else expected
    key = lambda rows: sorted(map(tuple, rows.flatten(1).tolist()))  # noqa: E731
    assert key(x) == key(expected)
    assert pv.load(tmp_path / "x.npy", layout="channels-first").train.event_shape == shape[1:]


def test_channels_that_may_be_first_or_last(tmp_path):
    np.save(tmp_path / "x.npy", _levels(0, 9, 3, 8, 4))
    with pytest.raises(ValueError, match=r"may be first or last.*\(--layout\)"):
        pv.load(tmp_path / "x.npy")
    assert pv.load(tmp_path / "x.npy", layout="channels-last").test.event_shape == (4, 3, 8)


class _Pictures(torch.utils.data.Dataset):
    """What torchvision's data sets are: pairs of a picture of Pillow and a label."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        return Image.fromarray(self.arrays[index]), index


def test_data_sets_of_pictures():
    from torchvision.transforms.functional import to_tensor

    for shape in ((6, 5), (6, 5, 3)):
        arrays = [_levels(n, *shape) for n in range(7)]
        source = as_source(_Pictures(arrays), lambda x, y: None)
        x, y = next(source.blocks(64))
        assert torch.equal(x, torch.stack([to_tensor(a) for a in arrays]))
        assert y.tolist() == list(range(7))
    mixed = _Pictures([_levels(0, 6, 5), _levels(1, 6, 5, 3)])
    with pytest.raises(ValueError, match=r"different shapes, \(1, 6, 5\) and \(3, 6, 5\)"):
        next(as_source(mixed, lambda x: None).blocks(64))


@pytest.mark.parametrize("disguised", ["PPM", "TGA", "SGI"])
def test_other_formats_under_these_names_are_not_decoded(folder, disguised):
    """What decodes a file is chosen by the formats that are read, not by what the file says."""
    folder.root.mkdir(exist_ok=True)
    Image.fromarray(_levels(0, 4, 4)).save(folder.root / "0.png", format=disguised)
    with pytest.raises(ValueError, match=r"0\.png cannot be read as a picture: cannot identify"):
        read_pictures(folder.root)
