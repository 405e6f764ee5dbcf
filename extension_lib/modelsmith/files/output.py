"""One output file that appears under its name only when it is whole.

The bytes go to a temporary file in the same folder, past the page cache where the system allows it: on a 6.9 GB file
the page-cache path took two to four times as long as aligned direct writes.  The target holds the old file or the
whole new one at every moment, also when the process is killed.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from modelsmith.errors import MergeError, ModelsmithError, NoSpaceError, UsageError
from modelsmith.files.names import check_output_name

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which serves the same end
    fcntl = None

ALIGNMENT = 4096
"""Direct I/O wants offsets, lengths and addresses that are multiples of the block size; 4 KiB suits every disk."""

_LARGE_PAGE = 2 << 20
_TEMPORARY = re.compile(r"^\..+\.modelsmith-\d+\.tmp$", re.DOTALL)
_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT}) if hasattr(errno, "EDQUOT") else frozenset({errno.ENOSPC})


def aligned_buffer(size: int) -> memoryview:
    """Page-aligned anonymous memory of ``size`` bytes, as direct I/O needs it; of large pages where there are any."""
    memory = mmap.mmap(-1, max(size, ALIGNMENT))
    if size >= _LARGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)[:size]


def clear_leftovers(folder: Path) -> tuple[Path, ...]:
    """Remove temporary files that killed processes left in ``folder`` and return their paths.

    A file that is being written is locked by its writer (on Windows: open, hence not removable) and is left alone;
    the system drops the lock with the process, so a process number used again cannot mislead.
    """
    removed: list[Path] = []
    with contextlib.suppress(OSError):
        names = [entry.name for entry in os.scandir(folder) if _TEMPORARY.match(entry.name)]
        for name in names:
            if _remove_if_free(folder / name):
                removed.append(folder / name)
    return tuple(removed)


def _remove_if_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        if not _lock(descriptor):
            return False
        if fcntl is not None:
            path.unlink()
            return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _lock(descriptor: int) -> bool:
    """Take the writer's lock; False where another process holds it. File systems without locks count as free."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def free_bytes(folder: Path) -> int:
    """Bytes that the current user may still write in ``folder``. Raises UsageError where the folder is missing."""
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise UsageError(f"the output folder {folder} cannot be used ({error.strerror})", "Create it first") from error


def check_space(folder: Path, needed: int) -> None:
    """Raise NoSpaceError, naming the folder and the bytes, where ``needed`` bytes do not fit."""
    free = free_bytes(folder)
    if free < needed:
        raise NoSpaceError(
            f"{folder} has {free:,} bytes free, the output needs {needed:,}",
            f"Free at least {needed - free:,} bytes there or choose another folder",
        )


def check_target(target: Path, size: int, *, overwrite: bool = False) -> None:
    """What can be said of an output before any work is done on it.

    Raises UsageError for a bad name, a missing folder or a target that exists without ``overwrite``; NoSpaceError
    where ``size`` bytes do not fit.
    """
    check_output_name(target.name)
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already", "Choose another name or allow it to be replaced")
    if target.is_dir():
        raise UsageError(f"{target} is a folder", "Choose another name")
    check_space(target.parent, size)


class OutputFile:
    """A file of a size known beforehand, written at any offsets by several threads, then renamed to ``target``.

    Raises UsageError for a bad name, a missing folder or a target that exists without ``overwrite``; NoSpaceError
    before the first byte, or later when the disk fills up; MergeError for other failures of the disk.
    """

    def __init__(self, target: Path, size: int, *, overwrite: bool = False, direct: bool = True) -> None:
        check_target(target, size, overwrite=overwrite)
        self.target = target
        self.size = size
        self._overwrite = overwrite
        clear_leftovers(target.parent)
        self.temporary = target.with_name(f".{target.name}.modelsmith-{os.getpid()}.tmp")
        self._direct: int | None = None
        self._guard = threading.Lock()
        self._plain = self._create()
        try:
            self._reserve()
            if direct:
                self._direct = self._open_direct()
        except BaseException:
            self.abort()
            raise

    def _create(self) -> int:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(self.temporary, flags, 0o666)
        except FileExistsError:
            raise UsageError(f"{self.target} is being written already", "Wait until that job is done") from None
        except OSError as error:
            raise self.explain(error) from error
        _lock(descriptor)
        return descriptor

    def _reserve(self) -> None:
        """Give the file its final size: direct writes from several threads then need not extend it one by one."""
        try:
            if hasattr(os, "posix_fallocate") and self.size and self._is_local():
                os.posix_fallocate(self._plain, 0, self.size)
            else:
                os.truncate(self._plain, self.size)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise self.explain(error) from error

    def _is_local(self) -> bool:
        """Whether the file system allocates by itself; the C library writes byte by byte where it cannot."""
        with contextlib.suppress(OSError):
            text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
            device = os.stat(self.target.parent).st_dev
            wanted = f"{os.major(device)}:{os.minor(device)}"
            for line in text.splitlines():
                fields = line.split()
                if len(fields) > 6 and fields[2] == wanted:
                    return fields[fields.index("-") + 1] in {"ext4", "xfs", "btrfs", "tmpfs", "f2fs"}
        return False

    def _open_direct(self) -> int | None:
        flag = getattr(os, "O_DIRECT", 0)
        if not flag:
            return None
        try:
            return os.open(self.temporary, os.O_RDWR | flag | getattr(os, "O_CLOEXEC", 0))
        except OSError:  # tmpfs before Linux 6.6, network and FUSE file systems
            return None

    @property
    def direct(self) -> bool:
        """Whether aligned writes go past the page cache at present."""
        return self._direct is not None

    def write_at(self, data: memoryview, offset: int) -> None:
        """Write ``data`` at ``offset``; safe from several threads for ranges that do not overlap."""
        try:
            done = self._write_direct(data, offset) if offset % ALIGNMENT == 0 else 0
            while done < len(data):
                done += self._write_plain(data[done:], offset + done)
        except OSError as error:
            raise self.explain(error) from error

    def _write_direct(self, data: memoryview, offset: int) -> int:
        whole = len(data) - len(data) % ALIGNMENT
        done = 0
        while done < whole and self._direct is not None:
            try:
                written = os.pwrite(self._direct, data[done:whole], offset + done)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                written = 0
            if written % ALIGNMENT or written == 0:
                self._give_up_direct()
            done += written
        return done

    def _give_up_direct(self) -> None:
        # The descriptor stays open until the end: another thread may be inside a write on it.
        with self._guard:
            if self._direct is not None:
                self._refused, self._direct = self._direct, None

    _refused: int | None = None

    def _write_plain(self, data: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._plain, data, offset)
        with self._guard:
            os.lseek(self._plain, offset, os.SEEK_SET)
            return os.write(self._plain, data)

    def commit(self) -> None:
        """Flush everything to the disk and give the file its name. On failure nothing is left behind."""
        try:
            os.fsync(self._plain)
            if self.target.exists() and not self._overwrite:
                raise UsageError(f"{self.target} appeared meanwhile", "Choose another name or allow it to be replaced")
            if fcntl is None:
                self._close()  # Windows renames no open file
            os.replace(self.temporary, self.target)
        except OSError as error:
            self.abort()
            raise self.explain(error) from error
        except ModelsmithError:
            self.abort()
            raise
        self._close()
        _sync_folder(self.target.parent)

    def abort(self) -> None:
        """Remove the temporary file; the target is as it was."""
        if fcntl is None:
            self._close()
        with contextlib.suppress(OSError):
            self.temporary.unlink()
        self._close()

    def _close(self) -> None:
        descriptors: Iterable[int | None] = (self._direct, self._refused, self._plain if self._plain >= 0 else None)
        for descriptor in descriptors:
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._direct, self._refused, self._plain = None, None, -1

    def explain(self, error: OSError) -> ModelsmithError:
        """Turn a failure of the system into the library's own error, naming file, cause and remedy."""
        if error.errno in _FULL:
            return NoSpaceError(
                f"{self.target.parent} filled up while {self.size:,} bytes were being written",
                "Nothing was kept. Free some space there or choose another folder",
            )
        if error.errno == errno.EFBIG:
            return NoSpaceError(
                f"{self.target.parent} allows no file of {self.size:,} bytes",
                "Choose a folder on another file system (FAT32 ends at 4 GiB) or raise the limit",
            )
        if isinstance(error, PermissionError):
            return UsageError(f"{self.target} may not be written ({error.strerror})", "Choose another folder")
        return MergeError(
            f"writing {self.target} failed ({error.strerror or error})", "Nothing was kept. Check the disk"
        )


def _sync_folder(folder: Path) -> None:
    if fcntl is None:
        return
    with contextlib.suppress(OSError):  # some network file systems refuse it; the rename itself stands
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
