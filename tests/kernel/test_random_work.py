"""What processes count themselves while they do random work is what ebpfmon counts.

`make test-more` runs the same for an hour with random seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.kernel.random_watch import ALL_WISHES, Watch, plans, watching
from tests.kernel.random_work import FILE_WISHES, SOCKET_WISHES, TASK_WISHES, Place, Raw
from tests.kernel.support import require_attach_method


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    require_attach_method("tracepoint")
    with Place() as made:
        yield made


def compare(place: Place, names: Sequence[str], examples: int, interval: int = 1) -> None:
    """Run `examples` lists of plans, always the same ones, and assert that ebpfmon counts what they do."""
    with watching(place, interval) as monitor:
        watch = Watch(monitor, place)

        @settings(
            derandomize=True, database=None, deadline=None, max_examples=examples, phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(plans(names))
        def run(several: list[list[Raw]]) -> None:
            watch.run(several)

        run()


def test_file_work_is_counted(place: Place) -> None:
    compare(place, FILE_WISHES, 2)


def test_trees_of_processes_that_change_are_counted(place: Place) -> None:
    compare(place, FILE_WISHES + TASK_WISHES * 2, 3)


def test_traffic_is_counted(place: Place) -> None:
    compare(place, SOCKET_WISHES, 3)


def test_several_changes_in_one_interval_are_counted(place: Place) -> None:
    compare(place, [wish for wish in ALL_WISHES if wish != "pause"], 1, interval=3)
