"""Archives whose every byte is accounted for.

An archive is a ZIP file of members and `manifest.json`, which holds the size and the SHA-256 of each of them. The
comment at its end is the SHA-256 of all that comes before, so that no flipped byte goes unnoticed, wherever it is.
Checksums tell damage and careless changes; they do not prove who made an archive, so that what is in it is checked as
any other input is.

The same members make the same bytes (with the same version of zlib).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search.study_file import NAME
from space.errors import InputError, OutputError
from space.paths import ordinary_mode

FORMAT = 1
MANIFEST = "manifest.json"
CHUNK = 1 << 20
SEAL = 64  # characters of the comment at the end
# No archive of a study comes near these; one that does is made to fill a disk or a memory.
MOST_MEMBERS = 200_000
MOST_BYTES_OF_A_MEMBER = 1 << 30
MOST_BYTES = 1 << 36
MOST_BYTES_OF_THE_MANIFEST = 1 << 26
MOST_COMPRESSION = 250  # times, beyond the first MiB; the JSON of trials gets to about 30
_COMPRESSED = (".json", ".jsonl", ".md", ".txt")
_OLDEST = (1980, 1, 1, 0, 0, 0)  # a ZIP file must tell a time


class Member(BaseModel):
    """What is known of a member.

    Attributes:
        sha256: of its content, hexadecimal.
        size: in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: int = Field(ge=0)


class Manifest(BaseModel):
    """Content of `manifest.json`.

    Attributes:
        format: version of this layout.
        study: name of the study.
        made_with: versions of what wrote it.
        members: all files but this one, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    study: Annotated[str, Field(pattern=NAME)]
    made_with: dict[str, str]
    members: dict[str, Member]


def write_archive(
    output: Path, study: str, made_with: dict[str, str], members: Iterable[tuple[str, bytes]]
) -> Manifest:
    """Write an archive; all of it or nothing.

    Args:
        output: file to make.
        study: name of the study.
        made_with: versions.
        members: name and content of each; in this order.

    Raises:
        InputError: the file exists.
        OutputError: it cannot be written (disk full, no such folder).
    """
    taken = InputError(f"{output} exists already.", "Choose another name, or remove it.")
    if output.exists() or output.is_symlink():
        raise taken
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}.") from error
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            found: dict[str, Member] = {}
            with zipfile.ZipFile(file, "w") as archive:
                for member, content in members:
                    found[member] = _add(archive, member, content)
                manifest = Manifest(format=FORMAT, study=study, made_with=made_with, members=found)
                _add(archive, MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())
                archive.comment = b"0" * SEAL
            seal = _digest_before_seal(file)
            file.seek(-SEAL, os.SEEK_END)
            file.write(seal.encode())
        part.chmod(ordinary_mode())
        _put(part, output)
    except FileExistsError:
        raise taken from None
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return manifest


def _put(part: Path, output: Path) -> None:
    """Give a file its name; an error if that has been taken meanwhile."""
    try:
        os.link(part, output)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.rename(part, output)  # a USB stick, say, knows no links


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> Member:
    info = zipfile.ZipInfo(name, _OLDEST)
    info.compress_type = zipfile.ZIP_DEFLATED if name.endswith(_COMPRESSED) else zipfile.ZIP_STORED
    info.external_attr = 0o100644 << 16
    info.create_system = 3  # the same bytes on every system
    info.file_size = len(content)
    with archive.open(info, "w") as target:
        target.write(content)
    return Member(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _digest_before_seal(file: IO[bytes]) -> str:
    left = file.seek(0, os.SEEK_END) - SEAL
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0 and (chunk := file.read(min(CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


class Archive:
    """An archive that was found to be whole when it was opened; see `open_archive`.

    Attributes:
        path: of the file.
        manifest: of its members.
    """

    def __init__(self, path: Path, zipped: zipfile.ZipFile, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._zipped = zipped

    def read(self, name: str) -> bytes:
        """Content of a member."""
        return b"".join(self._read(name))

    def extract(self, name: str, target: Path) -> None:
        """Write a member to a file."""
        with target.open("xb") as file:
            for chunk in self._read(name):
                file.write(chunk)

    def _read(self, name: str) -> Iterator[bytes]:
        """Content in parts; an error at the end if it is not what the manifest says."""
        digest, expected = hashlib.sha256(), self.manifest.members[name]
        for chunk in _read_member(self.path, self._zipped, name):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != expected.sha256:
            raise _damaged(self.path, name, "its content has another SHA-256 than the manifest says")


@contextmanager
def open_archive(path: Path, allowed: str) -> Iterator[Archive]:
    """Open an archive after every byte of it was checked; nothing is written anywhere.

    Args:
        path: of the file.
        allowed: regular expression of the whole name of a member.

    Raises:
        InputError: there is no such file, it is no archive of a study or of another format; it is damaged, or was
            changed (names the member); a member has another name, is too large, or takes too much room for its bytes.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    with file:
        try:
            zipped = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(
                f"{path} is no archive of a study, or its directory is damaged ({error}).",
                "`shoebox study export` writes archives.",
            ) from None
        with zipped:
            _check_directory(path, zipped, allowed)
            archive = Archive(path, zipped, _read_manifest(path, zipped))
            for name in archive.manifest.members:
                for _ in archive._read(name):
                    pass
            if _digest_before_seal(file).encode() != zipped.comment:
                raise _damaged(path, "the directory", "the SHA-256 at the end of the archive does not fit")
            yield archive


def _check_directory(path: Path, zipped: zipfile.ZipFile, allowed: str) -> None:
    infos = zipped.infolist()
    names = [info.filename for info in infos]
    if len(infos) > MOST_MEMBERS:
        raise _refused(path, f"it has {len(infos):,} members, at most {MOST_MEMBERS:,} are read")
    if MANIFEST not in names:
        raise InputError(f"{path} is no archive of a study: it has no {MANIFEST}.")
    for info in infos:
        name = info.filename
        if name != MANIFEST and not re.fullmatch(allowed, name):
            raise _refused(path, f"a study has no member of the name {name!r}")
        most = MOST_BYTES_OF_THE_MANIFEST if name == MANIFEST else MOST_BYTES_OF_A_MEMBER
        if info.file_size > most:
            raise _refused(path, f"{name} is said to have {info.file_size:,} bytes, at most {most:,} are read")
        if info.file_size > CHUNK + MOST_COMPRESSION * info.compress_size:
            raise _refused(path, f"{name} would grow more than {MOST_COMPRESSION} times")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(path, f"{name} is encrypted or packed in a way that is not read")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise _refused(path, f"it has two members of the name {twice[0]!r}")
    if sum(info.file_size for info in infos) > MOST_BYTES:
        raise _refused(path, f"its members have more than {MOST_BYTES:,} bytes together")


def _read_manifest(path: Path, zipped: zipfile.ZipFile) -> Manifest:
    text = b"".join(_read_member(path, zipped, MANIFEST))
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        newer = re.search(rb'"format":\s*(\d+)', text)
        if newer and int(newer[1]) != FORMAT:
            raise _other_format(path, int(newer[1])) from None
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise _damaged(path, MANIFEST, f"{where}: {first['msg']}") from None
    if manifest.format != FORMAT:
        raise _other_format(path, manifest.format)
    sizes = {info.filename: info.file_size for info in zipped.infolist() if info.filename != MANIFEST}
    for name in sorted({*sizes, *manifest.members}):
        if name not in sizes:
            raise _damaged(path, name, "the archive lacks it")
        if name not in manifest.members:
            raise _damaged(path, name, "the manifest does not name it")
        if sizes[name] != manifest.members[name].size:
            raise _damaged(path, name, "it has another size than the manifest says")
    return manifest


def _read_member(path: Path, zipped: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    try:
        with zipped.open(name) as source:
            while chunk := source.read(CHUNK):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, name, str(error) or "its content cannot be unpacked") from None


def _damaged(path: Path, name: str, why: str) -> InputError:
    return InputError(f"{path} is damaged or was changed: {name}: {why}.", "Have the study exported again.")


def _refused(path: Path, why: str) -> InputError:
    return InputError(f"{path} is refused: {why}.", "`shoebox study export` writes no such archives.")


def _other_format(path: Path, found: int) -> InputError:
    return InputError(
        f"{path} is an archive of format {found}; this version of Shoebox reads format {FORMAT}.",
        "Import it with the version that wrote it, or a newer one.",
    )
