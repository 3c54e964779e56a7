"""The table of what `benchmarks/run` measures: nothing in it that does not exist, where only a long run would tell."""

import pytest

from benchmarks import clients, commands, fetches, files, streams
from benchmarks.case import quick
from benchmarks.cases import CASES
from benchmarks.table import FIGURES

IDS = [case.name for case in CASES]


def test_names_are_distinct():
    assert len(CASES) == len({case.name for case in CASES})


@pytest.mark.parametrize("case", [*CASES, *map(quick, CASES)], ids=lambda case: case.name)
def test_targets_are_of_peers_figures_and_points_that_are_measured(case):
    for target in case.targets:
        assert {target.peer, *target.against} <= set(case.peers)
        assert target.figure in FIGURES
        assert case.points
        assert target.against or target.floor or target.connections


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_peer_is_known(case):
    commanded = commands.COMMANDS.get(case.workload, {})
    for peer in case.peers:
        name = peer.partition(" ")[0]
        if peer in commanded or name == "limit" or case.workload == "import":
            continue
        assert case.workload in clients.WORKLOADS
        known = {
            "many": fetches.FETCHES.get(peer),
            "sequential": streams.STREAMS.get(peer.rstrip(" 0123456789")) or files.OPENERS.get(name),
        }.get(case.workload, files.OPENERS.get(name))
        assert known is not None, peer
