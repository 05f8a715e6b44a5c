"""Statistics of a table as TFX's tools have them: a DatasetFeatureStatisticsList."""

from itertools import pairwise
from pathlib import Path

from tensorflow_metadata.proto.v0 import statistics_pb2 as tfmd

from mlops_loop.base.errors import Failure
from mlops_loop.contract.schema import Column, Schema
from mlops_loop.contract.tensorflow_metadata import EPOCHS, ISO, kind_of
from mlops_loop.data.engine import Rows, stored, text

BUCKETS = 10  # of a histogram
TOP = 20  # most frequent values that are named
RANKED = 1000  # values that are counted: TFDV compares these with a domain
PARTS = {"epoch s": "epoch", "epoch ms": "epoch_ms", "epoch us": "epoch_us", "epoch ns": "epoch_ns"}


def statistics(path: Path, schema: Schema) -> tfmd.DatasetFeatureStatisticsList:
    """Return the statistics of a Parquet file that the pipeline wrote, of the contract's columns.

    DuckDB counts: the rows are not held in memory.
    """
    if not path.is_file():
        raise Failure(f"{path} is missing: run `uv run dvc repro`")
    found = tfmd.DatasetFeatureStatisticsList()
    dataset = found.datasets.add(name=path.stem)
    with stored(path) as rows:
        ((total,),) = rows.connection.sql("SELECT count(*) FROM rows").fetchall()
        dataset.num_examples = total
        for place, name in enumerate(rows.names):
            if name not in schema.used:
                continue
            column = schema.used[name]
            value = value_of(f"c{place}", column)
            feature = dataset.features.add(path={"step": [name]})
            if kind_of(column) == "BYTES":
                add_texts(feature, rows, value, total)
            else:
                whole = kind_of(column) == "INT"
                feature.type = feature.INT if whole else feature.FLOAT
                add_numbers(feature.num_stats, rows, f"({value})::DOUBLE", total)
    return found


def value_of(value: str, column: Column) -> str:
    """Return a value as SQL, in the spelling that the contract's schema names."""
    if column.format in EPOCHS:
        return f"floor({PARTS[column.format]}({value}))"
    if column.type == "timestamp":
        known = column.format if column.format and column.format.startswith("%") else ISO
        return f"strftime({value}, {text(known)})"
    if column.type in ("category", "id"):
        return f"{value}::VARCHAR"
    return value if column.type == "boolean" else f"nullif({value}::DOUBLE, 'nan'::DOUBLE)"


def add_common(common: tfmd.CommonStatistics, filled: int, total: int) -> None:
    common.num_non_missing, common.num_missing = filled, total - filled
    if filled:
        common.min_num_values = common.max_num_values = 1
        common.avg_num_values, common.tot_num_values = 1, filled


def add_texts(feature: tfmd.FeatureNameStatistics, rows: Rows, value: str, total: int) -> None:
    feature.type = feature.STRING
    found = feature.string_stats
    asked = "count(v), count(DISTINCT v), coalesce(avg(strlen(v)), 0)"
    ((filled, found.unique, found.avg_length),) = rows.connection.sql(
        f"SELECT {asked} FROM (SELECT {value} AS v FROM rows)"
    ).fetchall()
    add_common(found.common_stats, filled, total)
    counts = rows.connection.sql(
        f"SELECT {value} AS v, count(*) AS n FROM rows WHERE v IS NOT NULL GROUP BY v "
        f"ORDER BY n DESC, v LIMIT {RANKED}"
    ).fetchall()
    for rank, (label, count) in enumerate(counts):
        if rank < TOP:
            found.top_values.add(value=label, frequency=count)
        found.rank_histogram.buckets.add(
            low_rank=rank, high_rank=rank, label=label, sample_count=count
        )


def add_numbers(found: tfmd.NumericStatistics, rows: Rows, value: str, total: int) -> None:
    shares = ", ".join(str(place / BUCKETS) for place in range(BUCKETS + 1))
    asked = (
        f"count(v), avg(v), stddev_pop(v), count(*) FILTER (v = 0), quantile_cont(v, [{shares}])"
    )
    source = f"(SELECT {value} AS v FROM rows)"
    (answer,) = rows.connection.sql(f"SELECT {asked} FROM {source}").fetchall()
    filled, mean, deviation, zeros, edges = answer
    add_common(found.common_stats, filled, total)
    if not filled:
        return
    found.mean, found.std_dev, found.num_zeros = mean, deviation, zeros
    low, found.median, high = edges[0], edges[BUCKETS // 2], edges[-1]
    found.min, found.max = low, high
    quantiles = found.histograms.add(type=tfmd.Histogram.QUANTILES)
    for start, end in pairwise(edges):
        quantiles.buckets.add(low_value=start, high_value=end, sample_count=filled / BUCKETS)
    width = (high - low) / BUCKETS
    place = f"least(floor((v - {low!r}) / {width!r}), {BUCKETS - 1})" if width else "0"
    sql = f"SELECT {place}::BIGINT, count(v) FROM {source} WHERE v IS NOT NULL GROUP BY 1"
    counts = dict(rows.connection.sql(sql).fetchall())
    standard = found.histograms.add(type=tfmd.Histogram.STANDARD)
    for bucket in range(BUCKETS if width else 1):
        end = high if bucket == BUCKETS - 1 or not width else low + (bucket + 1) * width
        standard.buckets.add(
            low_value=low + bucket * width, high_value=end, sample_count=counts.get(bucket, 0)
        )
