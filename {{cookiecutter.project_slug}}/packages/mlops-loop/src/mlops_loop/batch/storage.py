"""Storage: list the files of a folder and publish results, on a disk or at a URL of fsspec."""

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlops_loop.data.source.remote import about, reached


def plain(place: str) -> str:
    """Return a file:// URL as the path that it is, anything else without a slash at its end."""
    return (
        url2pathname(urlsplit(place).path)
        if place.startswith("file://")
        else place.rstrip("/") or place
    )


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
    """Return the files of a folder and of those below it, sorted: name in the folder -> path or
    URL.

    None if `place` is no folder. Names that begin with . or _ are left out: such files mark
    something.
    """
    if "://" not in place:
        folder = Path(place)
        known = folder.is_dir()
        below = [path for path in folder.rglob("*") if path.is_file()]
        found = {path.relative_to(folder).as_posix(): str(path) for path in below}
    elif place.startswith("http"):  # there are no folders
        return None
    else:
        with reached(place) as (system, root):
            known = about(system, root)["type"] == "directory"
            paths = system.find(root) if known else []
            found = {
                path.removeprefix(root).lstrip("/"): system.unstrip_protocol(path) for path in paths
            }
    hidden = {name for name in found if any(part[0] in "._" for part in name.split("/"))}
    return {name: found[name] for name in sorted(set(found) - hidden)} if known else None


def publish_file(made: Path, target: str) -> None:
    """Move a file to a path on the same disk, or copy it to a URL; it shows there when it is
    whole.
    """
    if "://" not in target:
        made.replace(target)
        return
    with reached(target, "written") as (system, place):
        # No makedirs: it would make a bucket of a mistyped name.
        system.put_file(str(made), place)


def publish_folder(made: Mapping[str, Path], target: str) -> None:
    """Move files into a new folder, by their names in it, or copy them to a URL.

    On a disk the folder shows when all are there; at a URL they show one by one, in order.
    """
    if "://" in target:
        for name, path in made.items():
            publish_file(path, f"{target}/{name}")
        return
    gathered = Path(target).with_name(f".{Path(target).name}.new")
    shutil.rmtree(gathered, ignore_errors=True)  # of a run that was killed just here
    for name, path in made.items():
        (gathered / name).parent.mkdir(parents=True, exist_ok=True)
        path.replace(gathered / name)
    if Path(target).is_dir():
        Path(target).rmdir()  # refused, if it is not empty
    gathered.replace(target)
