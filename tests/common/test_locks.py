"""One writer for a folder, whatever becomes of it."""

import errno
import os
import shutil
import signal
import threading

import pytest

from pyro_vae.common import locks
from pyro_vae.common.locks import LOCK, FolderLock, held, hold, take_turns, writes_to


def _refused(folder):
    with pytest.raises(BlockingIOError, match="in use by another process") as error, hold(folder):
        pass
    return str(error.value)


def _in_another_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_the_second_is_refused_and_told_who_has_it(tmp_path):
    with hold(tmp_path):
        message = _in_another_thread(lambda: _refused(tmp_path))
        assert f"(process {os.getpid()} on {os.uname().nodename})" in message
        assert str(tmp_path) in message
        assert _in_another_thread(lambda: _refused(tmp_path / "." / ".." / tmp_path.name))
        with hold(tmp_path / "inner"):  # another folder
            pass
    with hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_who_holds_a_folder_may_do_so_again(tmp_path):
    @writes_to("out")
    def work(number, out=None):
        return number, held(out)

    with hold(tmp_path):
        with hold(str(tmp_path)):
            pass
        assert held(tmp_path).is_held()  # until the outer block ends
        assert work(1, tmp_path) == (1, held(tmp_path))
    assert work(2) == (2, None)
    assert held(tmp_path) is None
    assert work(out=tmp_path, number=3)[1] is not None


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_process_locks_nothing(tmp_path):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        FolderLock(tmp_path).take()
        os.write(write, b"taken")
        signal.pause()
    assert os.read(read, 5) == b"taken"
    assert f"process {child} on" in _refused(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert f"process {child} on" in (tmp_path / LOCK).read_text()  # is still there
    with hold(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_folders_made_for_nothing_are_taken_away(tmp_path):
    with hold(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert (tmp_path / "a" / "b" / "file").exists()


def test_a_folder_that_is_gone_is_named(tmp_path):
    folder = tmp_path / "run"
    with hold(folder):
        lock = held(folder)
        lock.check()
        shutil.rmtree(folder)
        with pytest.raises(FileNotFoundError, match=r"/run was deleted, moved or replaced"):
            lock.check()
        with hold(tmp_path / "other"):
            folder.mkdir()
            (folder / LOCK).touch()  # another process has begun anew
            with pytest.raises(FileNotFoundError, match=r"/run was deleted, moved or replaced"):
                lock.check()
    assert (folder / LOCK).exists()  # and keeps its lock


def test_file_systems_without_locks_and_folders_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file/run"), hold(tmp_path / "file" / "run"):
        pass

    def no_locks(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match=r"cannot lock .*\.lock: .*No locks available.*another one"):
        FolderLock(tmp_path / "new").take()
    assert not (tmp_path / "new").exists()
    with take_turns(tmp_path):  # readers go on
        pass
    monkeypatch.setattr(locks, "fcntl", None)
    with hold(tmp_path):
        pass


def test_turns_follow_each_other(tmp_path):
    order, inside = [], threading.Event()

    def second():
        inside.wait()
        with take_turns(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with take_turns(tmp_path):
        inside.set()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []
    with take_turns(tmp_path / "nowhere"):
        assert not (tmp_path / "nowhere").exists()


def test_of_several_processes_the_first_holds_it_for_all(tmp_path, monkeypatch):
    class Second:
        is_first = False

        def __init__(self, told):
            self.told = told

        def gather(self, value):
            return [self.told, value]

    monkeypatch.setattr(locks.Processes, "join", lambda: Second(None))
    with hold(tmp_path), hold(tmp_path):
        assert held(tmp_path) is None
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(locks.Processes, "join", lambda: Second(BlockingIOError("in use")))
    with pytest.raises(BlockingIOError, match="in use"), hold(tmp_path):
        pass
