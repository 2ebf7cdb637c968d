"""Extended attributes of files, folders, links and all else: access control lists, capabilities and labels are such."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lifeboat.files.scan import Found

MOST = 256 * 1024
"""Bytes of all attributes of one thing that are kept. Whoever owns a file can give it hundreds of megabytes of them."""

_without: set[int] = set()
"""Devices that know no extended attributes."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes that could be read, and what is to be said of others."""

    values: Mapping[bytes, bytes] = field(default_factory=dict)
    lacking: str = ""


_NONE = Attributes()


def attributes_of(file: int, device: int) -> Attributes:
    """Those of an open file or folder."""
    if device in _without:
        return _NONE
    return _read(lambda: os.listxattr(file), lambda name: os.getxattr(file, name), device)


def attributes_by_name(found: Found) -> Attributes:
    """Those of what is not to be opened: a symbolic link, a pipe, a socket or a device."""
    if found.info.st_dev in _without:
        return _NONE
    path = path_in(found.folder.fd, os.fsencode(found.name))
    return _read(
        lambda: os.listxattr(path, follow_symlinks=False),
        lambda name: os.getxattr(path, name, follow_symlinks=False),
    )


def path_in(folder: int, name: bytes) -> bytes:
    """The path of something in an open folder: for attributes there are no calls that take the folder itself."""
    return b"/proc/self/fd/%d/%s" % (folder, name)


def _read(names: Callable[[], list[str]], value: Callable[[str], bytes], device: int | None = None) -> Attributes:
    try:
        found = names()
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS) and device is not None:
            _without.add(device)
        if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOENT, errno.ENOTDIR):  # gone, or no /proc
            return _NONE
        return Attributes({}, f"its attributes could not be read: {error.strerror}")
    if not found:
        return _NONE
    values: dict[bytes, bytes] = {}
    lacking: dict[str, str] = {}
    size = 0
    for name in found:
        try:
            data = value(name)
        except OSError as error:
            if error.errno != errno.ENODATA:  # it has gone meanwhile
                lacking[name] = error.strerror or str(error)
            continue
        size += len(name) + len(data)
        if size > MOST:
            size -= len(name) + len(data)
            lacking[name] = f"all together have more than {MOST // 1024} KiB"
        else:
            values[os.fsencode(name)] = data
    return Attributes(values, _text(lacking))


def _text(lacking: Mapping[str, str]) -> str:
    if not lacking:
        return ""
    name, reason = next(iter(lacking.items()))
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return f"its attribute {name!a}{more} could not be kept: {reason}"
