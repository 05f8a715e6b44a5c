"""Hive-partitioned folders, such as date=2026-11-28/part-0.parquet, on a disk or at a URL."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import format_source
from mlops_loop.data.source.remote import about, reached

NULL = "__HIVE_DEFAULT_PARTITION__"
# What tells one content of a file from another one, as fsspec's file systems call it
MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
UNITS = ("year", "month", "day", "hour", "minute")
DATE = re.compile(r"(19|20)\d\d-\d\d(-\d\d.*)?|(19|20)\d{6}")
SHOWN = 5  # names in a message

Keys = dict[str, str | None]


class Part(NamedTuple):
    place: str  # path or URL
    version: str  # size, and ETag or time of the last change


def parts_in(place: str) -> dict[str, Part] | None:
    """Return the files in and below a folder by their name in it; None if it is no folder.

    Names that begin with . or _ are left out: such files mark something.
    """
    if place.startswith(("http://", "https://")):  # there are no folders
        return None
    found = {}
    if "://" in place:
        with reached(place) as (system, root):
            system.invalidate_cache()
            if about(system, root)["type"] != "directory":
                return None
            for path, facts in system.find(root, detail=True).items():
                mark = next((facts[mark] for mark in MARKS if facts.get(mark)), "")
                url = system.unstrip_protocol(path)
                name = path.removeprefix(root).lstrip("/")
                found[name] = Part(url, f"{facts['size']} {mark}")
    else:
        folder = Path(place)
        if not folder.is_dir():
            return None
        for path in folder.rglob("*"):
            if path.is_file():
                facts = path.stat()
                version = f"{facts.st_size} {facts.st_mtime_ns}"
                found[path.relative_to(folder).as_posix()] = Part(str(path), version)
    shown = [name for name in found if not any(part[:1] in "._" for part in name.split("/"))]
    return {name: found[name] for name in sorted(shown)}


def keys(name: str) -> Keys:
    """Return the columns that the folders of a file tell, with their values as texts."""
    found: Keys = {}
    for level in name.split("/")[:-1]:
        key, equals, value = map(unquote, level.partition("="))
        if equals and key in found:
            raise Failure(f"{name} has two values of the key {key!r}: leave one")
        if equals:
            found[key] = None if value == NULL else value
    return found


def checked(parts: Mapping[str, Part], folder: str) -> Mapping[str, Part]:
    """Return what `parts_in` found, if it is Parquet whose partitions have the same keys."""
    where = format_source(folder)
    if not parts:
        raise Failure(f"{where} is an empty folder: files with rows are needed")
    first = next(iter(parts))
    for name in parts:
        if not keys(name):
            what = "lies in no partition, a folder such as date=2026-11-28: move it there"
            raise Failure(f"{where}: {name} {what}, or name a file")
        if list(keys(name)) != list(keys(first)):
            what = "has other keys than"
            raise Failure(f"{where}: {name} {what} {first}: let all partitions have the same")
        if not name.endswith(".parquet"):
            raise Failure(f"{where}: {name} is no .parquet file: partitions hold nothing else")
    return parts


@contextmanager
def unchanged(parts: Mapping[str, Part], folder: str) -> Iterator[None]:
    """Refuse files that are gone, or others, after they were read."""
    try:
        yield
    except Failure:
        refuse_changed(parts, folder)  # which tells better why
        raise
    refuse_changed(parts, folder)


def refuse_changed(parts: Mapping[str, Part], folder: str) -> None:
    now = (parts_in(folder) or {}) if parts else {}
    for name, part in parts.items():
        if now.get(name) != part:
            what = "changed" if name in now else "vanished"
            where = f"{format_source(part.place)} {what} while its folder was read"
            raise Failure(f"{where}: try again when it is written")


class Changes(NamedTuple):
    """Partitions since the time before."""

    new: list[str]
    changed: list[str]
    late: list[str]  # new, and older than the newest that was there
    unchanged: list[str]
    gone: list[str]

    def __str__(self) -> str:
        late = f"{len(self.late):,} late"
        late += " (older than the newest already there)" if self.late else ""
        counts = f"{len(self.new):,} new, {len(self.changed):,} changed, {late}, "
        lines = [f"partitions: {counts}{len(self.unchanged):,} unchanged, {len(self.gone):,} gone"]
        for what in ("changed", "late", "gone"):
            names: list[str] = getattr(self, what)
            more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
            lines += [f"  {what}: {', '.join(names[:SHOWN])}{more}"] if names else []
        return "\n".join(lines)


def compare(before: Mapping[str, str], now: Mapping[str, Part]) -> Changes:
    """Return what became of the partitions: `before` has the version of each file by its name."""
    old = by_partition(before)
    present = by_partition({name: part.version for name, part in now.items()})
    newest = max(map(moment, old), default="")
    arrived = [name for name in present if name not in old]
    late = [name for name in arrived if "" < moment(name) < newest]
    known = [name for name in present if name in old]
    return Changes(
        new=[name for name in arrived if name not in late],
        changed=[name for name in known if present[name] != old[name]],
        late=late,
        unchanged=[name for name in known if present[name] == old[name]],
        gone=[name for name in old if name not in present],
    )


def by_partition(versions: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the files of each partition; one that lies in none stands for itself."""
    found = defaultdict[str, dict[str, str]](dict)
    for name, version in versions.items():
        found[name.rpartition("/")[0] if keys(name) else name][name] = version
    return dict(found)


def moment(partition: str) -> str:
    """Return the time that a partition's keys tell, as digits to compare; "" if they tell none."""
    digits = ""
    for key, value in keys(f"{partition}/").items():
        if value and key.lower() in UNITS and value.isdigit():
            digits += value.zfill(2)
        elif value and DATE.fullmatch(value):
            digits += re.sub(r"\D", "", value)
    return digits
