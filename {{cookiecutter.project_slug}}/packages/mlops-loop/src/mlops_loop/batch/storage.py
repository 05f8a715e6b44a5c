"""Storage: list a folder's files and publish results, on a disk or at a URL of fsspec."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import format_source
from mlops_loop.data.source.partitions import parts_in
from mlops_loop.data.source.read import format_of
from mlops_loop.data.source.remote import reached

FORMATS = (".parquet", ".csv")  # that predictions are written in


def plain(place: str) -> str:
    """Return a file:// URL as the path that it is, anything else without a slash at its end."""
    if place.startswith("file://"):
        return url2pathname(urlsplit(place).path)
    return place.rstrip("/") or place


def name_of(place: str) -> PurePosixPath | Path:
    """Return the path, or that in a URL, to look at its name."""
    return PurePosixPath(urlsplit(place).path) if "://" in place else Path(place)


def sibling(place: str, name: str) -> str:
    """Return the path or URL of another name in the same folder."""
    if "://" not in place:
        return str(Path(place).with_name(name))
    parts = urlsplit(place)
    return parts._replace(path=f"{parts.path.rpartition('/')[0]}/{name}").geturl()


def files_in(place: str) -> dict[str, str] | None:
    """Return the files in and below a folder, name in it -> path or URL; None if it is none.

    Names that begin with . or _ are left out: such files mark something.
    """
    found = parts_in(place)
    return None if found is None else {name: part.place for name, part in found.items()}


def output_names(found: Mapping[str, str], folder: str) -> dict[str, str]:
    """Return the name of each file's predictions: its own, or .parquet for JSON lines."""
    names: dict[str, str] = {}
    for name, place in found.items():
        format_of(place)
        path = PurePosixPath(name)
        path = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
        output = (path if path.suffix in FORMATS else path.with_suffix(".parquet")).as_posix()
        if output in names.values():
            what = f"the predictions of two files would be called {output}: rename one"
            raise Failure(f"{format_source(folder)}: {what}")
        names[name] = output
    if not names:
        raise Failure(f"{format_source(folder)} is an empty folder: files with rows are needed")
    return names


def refuse_overwriting(
    source: str, targets: tuple[str, str], folder: bool, adding: bool = False
) -> None:
    """Refuse what would read its own output, or mix it with other files, unless `adding` to it."""
    if "://" not in source and not Path(source).exists():
        raise Failure(f"{source} is not there")
    suffix = name_of(targets[0]).suffix
    if folder and suffix in FORMATS:
        what = f"is a folder: OUTPUT must be one too, without {suffix}"
        raise Failure(f"{format_source(source)} {what}")
    if not folder and suffix not in FORMATS:
        raise Failure(f"{format_source(targets[0])}: predictions are written to .parquet or .csv")
    for target in targets:
        place = Path(target).resolve()
        above = (place, *(place.parents if folder else ()))
        here = "://" not in source + target and Path(source).resolve() in above
        if target == source or here:
            what = "would be overwritten by its own predictions: name another file"
            raise Failure(f"{format_source(source)} {what}")
        occupied = "://" not in target and place.is_dir()
        if occupied and (not folder or any(place.iterdir())) and not adding:
            raise Failure(f"{target} is a folder with other files: name another, or remove it")


@contextmanager
def workshop(target: str) -> Iterator[Path]:
    """Give a folder to make what goes to `target` in, on the same disk, if that is a path."""
    beside = None if "://" in target else Path(target).parent
    if beside:
        beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".scoring-") as folder:
        yield Path(folder)


def publish(made: Mapping[str, Path], target: str, is_folder: bool) -> None:
    """Move files to a path on the same disk, or copy them to a URL; they show there when whole."""
    if "://" in target:
        for name, path in made.items():
            with reached(target, "written") as (system, place):
                # No makedirs: it would make a bucket of a mistyped name.
                system.put_file(str(path), f"{place}/{name}" if is_folder else place)
    elif is_folder:
        (first, *_) = made.values()
        gathered = first.with_name("gathered")
        for name, path in made.items():
            (gathered / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(gathered / name)
        if Path(target).is_dir():
            Path(target).rmdir()  # refused, if it is not empty
        gathered.replace(target)
    else:
        for path in made.values():
            path.replace(target)


def add(made: Mapping[str, Path], target: str) -> None:
    """Move or copy files into a folder, or to a URL, each of which shows there when whole."""
    if "://" in target or not Path(target).exists():
        publish(made, target, True)
        return
    for name, path in made.items():
        (Path(target) / name).parent.mkdir(parents=True, exist_ok=True)
        path.replace(Path(target) / name)
