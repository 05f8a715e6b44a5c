"""Where predictions go: the names of the files, and what may not be overwritten."""

from pathlib import Path, PurePosixPath

from mlops_loop.base.errors import Failure
from mlops_loop.base.params import format_source
from mlops_loop.batch import storage
from mlops_loop.data.source.read import reader_of

FORMATS = (".parquet", ".csv")  # that predictions are written in


def output_names(found: dict[str, str], folder: str) -> dict[str, str]:
    """Return for each file of a folder the name of its predictions: its own, or .parquet for JSON
    lines.
    """
    names: dict[str, str] = {}
    for name, place in found.items():
        reader_of(place)
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


def refuse_overwriting(source: str, targets: tuple[str, str], folder: bool) -> None:
    """Refuse what would read its own output, or mix it with other files."""
    if "://" not in source and not Path(source).exists():
        raise Failure(f"{source} is not there")
    refuse_suffix(source, targets[0], folder)
    overwritten = f"{format_source(source)} would be overwritten by its own predictions"
    for target in targets:
        if target == source or is_within(source, target, folder):
            raise Failure(f"{overwritten}: name another file")
        place = Path(target)
        occupied = "://" not in target and place.is_dir()
        if occupied and (not folder or any(place.iterdir())):
            raise Failure(f"{target} is a folder with other files: name another, or remove it")


def refuse_suffix(source: str, target: str, folder: bool) -> None:
    suffix = storage.name_of(target).suffix
    if folder and suffix in FORMATS:
        what = f"is a folder: OUTPUT must be one too, without {suffix}"
        raise Failure(f"{format_source(source)} {what}")
    if not folder and suffix not in FORMATS:
        raise Failure(f"{format_source(target)}: predictions are written to .parquet or .csv")


def is_within(source: str, target: str, folder: bool) -> bool:
    """Return whether a target on this disk is the source or, of a folder, lies in it."""
    if "://" in source or "://" in target:
        return False
    place = Path(target).resolve()
    return Path(source).resolve() in (place, *(place.parents if folder else ()))
