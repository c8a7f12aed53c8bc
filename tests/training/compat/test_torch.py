"""A counter that the processes of a launcher share, in a group of one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spectra.training.compat.torch import count_up, lost_connection


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_counter_counts(group: None) -> None:
    assert [count_up("a"), count_up("a"), count_up("b")] == [1, 2, 1]


def test_torch_still_gives_no_public_way_to_the_store() -> None:
    assert not [name for name in dir(torch.distributed) if "default_store" in name and not name.startswith("_")]


def test_what_says_that_another_process_is_gone() -> None:
    assert lost_connection(torch.distributed.DistNetworkError("reset"))
    assert lost_connection(RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed"))
    assert not lost_connection(RuntimeError("shapes"))
