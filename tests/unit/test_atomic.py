"""Files are replaced atomically."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ebpfmon.atomic import replace_file


def test_a_new_file_has_its_text_and_mode_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        replace_file(tmp_path / "a", "é\n", 0o755)
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == "é\n".encode()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert os.listdir(tmp_path) == ["a"]


def test_a_symbolic_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    replace_file(tmp_path / "link", "new")
    assert ((tmp_path / "link").read_text(), (tmp_path / "target").read_text()) == ("new", "old")
    assert not (tmp_path / "link").is_symlink()


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "folder", "text")
    with pytest.raises(UnicodeEncodeError):
        replace_file(tmp_path / "a", "\ud800")
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "none" / "a", "text")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_reader_never_sees_a_partial_file(tmp_path: Path) -> None:
    path, texts = tmp_path / "a", ("a" * 100_000, "b" * 70_000)
    replace_file(path, texts[0])
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for n in range(50):
            replace_file(path, texts[n % 2])
    finally:
        done.set()
        reader.join()
    assert seen <= set(texts)
