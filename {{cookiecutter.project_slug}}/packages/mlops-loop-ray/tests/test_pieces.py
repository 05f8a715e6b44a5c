import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlops_loop.base.errors import Failure

from mlops_loop_ray import pieces
from mlops_loop_ray.cluster import check


def spans(tmp_path, rows: int, group: int, name: str = "x") -> list:
    pq.write_table(pa.table({name: range(rows)}), tmp_path / "a.parquet", row_group_size=group)
    return pieces.spans_of(pq.read_metadata(tmp_path / "a.parquet"))


def test_a_piece_ends_with_a_row_group(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pieces, "ROWS", 25)
    assert spans(tmp_path, 65, 10) == [(0, 30), (30, 60), (60, 65)]
    assert spans(tmp_path, 60, 10) == [(0, 30), (30, 60)]
    assert spans(tmp_path, 60, 60) == [(0, 60)]
    assert spans(tmp_path, 0, 10) == [None]
    assert spans(tmp_path, 60, 10, "file_row_number") == [None]


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("ray://host:10001", "must be auto or HOST:PORT"),
        ("host", "must be auto or HOST:PORT"),
        ("127.0.0.1:1", "a Ray cluster must answer there"),
        ("127.0.0.1:99999999", "a Ray cluster must answer there"),
    ],
)
def test_an_address_without_a_cluster_is_refused(address, what) -> None:
    with pytest.raises(Failure, match=what):
        check(address)
