# SPDX-License-Identifier: Apache-2.0
"""hiddenfold.sw.spread and verify_spread: workers of a local cluster that live and die."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
from distributed import KilledWorker

from hiddenfold.sw import verify_spread as spreading
from hiddenfold.sw.cli import main
from hiddenfold.sw.spread import DEATHS, POLL, Died, local_workers, remote_workers, spread
from hiddenfold.sw.verify import verify
from hiddenfold.sw.verify_spread import verify_spread

SEED, COUNT = 31, 2


@pytest.fixture(scope="module")
def client():
    with local_workers(2) as client:
        yield client


def test_a_killed_worker_loses_nothing(client, tmp_path):
    def square(number):
        """Kills its worker the first time that it is asked for 5."""
        mark = tmp_path / "killed"
        if number == 5 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid(), number**2

    results = dict(spread(client, square, range(12)))
    assert (tmp_path / "killed").exists()
    assert [results[n][1] for n in range(12)] == [n**2 for n in range(12)]
    assert os.getpid() not in {pid for pid, _ in results.values()}


class Future:
    """Ends with each of some outcomes in turn."""

    status = "pending"

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def result(self, timeout):
        assert timeout == POLL
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_a_piece_that_ends_its_workers_and_one_whose_result_is_lost(monkeypatch, client):
    futures = [Future(7), Future(KilledWorker("x", None, 3)), Future(TimeoutError(), 9)]
    monkeypatch.setattr(client, "map", lambda *_, **__: futures)
    monkeypatch.setattr("distributed.wait", lambda left, **_: SimpleNamespace(done=left))
    results = list(spread(client, abs, range(3)))
    assert results == [(0, 7), (1, Died(f"it ended {DEATHS} worker processes")), (2, 9)]


def test_an_exception_comes_here(client):
    def wrong(number):
        raise ValueError(f"no {number}")

    with pytest.raises(ValueError, match=r"^no 0$"):
        list(spread(client, wrong, [0]))

    def late(number):
        raise TimeoutError(f"late {number}")

    with pytest.raises(TimeoutError, match=r"^late 0$"):
        list(spread(client, late, [0]))


def test_the_report_does_not_depend_on_who_works(monkeypatch, client):
    """Networks that end in reverse order, two of them bad, on workers of a scheduler."""
    bad = {"first_mismatch": "layer 'a'", "mismatches": 1}

    def one(target, failures, number):
        time.sleep(0.05 * (6 - number))
        report = {"networks": 1, "layers": number, "values_compared": 10, "mismatches": 0}
        changes = bad | {"first_mismatch": f"layer {number}"} if number in (2, 4) else {}
        return report | {"first_mismatch": None, "seed": number} | changes

    monkeypatch.setattr(spreading, "_one", one)
    address = client.scheduler.address
    ticks = []
    found = verify_spread("sim-tiny", 1, 5, scheduler=address, tick=ticks.append)
    assert found == {
        "networks": 5,
        "layers": 15,
        "values_compared": 50,
        "mismatches": 2,
        "first_mismatch": "layer 2",
        "seed": 1,
    }
    assert ticks == [1] * 5


def test_a_network_that_ends_its_workers_is_a_mismatch(monkeypatch, client):
    good = {"networks": 1, "layers": 3, "values_compared": 7, "mismatches": 0}
    results = [(1, good | {"first_mismatch": None}), (0, Died("it ended 3 worker processes"))]
    monkeypatch.setattr(spreading, "spread", lambda *_: iter(results))
    found = verify_spread("sim-tiny", 9, 2, scheduler=client.scheduler.address)
    again = "(repeat: hiddenfold verify --target sim-tiny --seed 9 --count 1)"
    assert found == {
        "networks": 2,
        "layers": 3,
        "values_compared": 7,
        "mismatches": 1,
        "first_mismatch": f"network random-9: it ended 3 worker processes {again}",
        "seed": 9,
    }


def test_no_workers_for_long(monkeypatch, client):
    """A scheduler whose workers have all gone, seen from a client."""
    monkeypatch.setattr("hiddenfold.sw.spread.GONE", -1)
    monkeypatch.setattr("hiddenfold.sw.spread.POLL", 0.01)
    monkeypatch.setattr(client, "nthreads", dict)
    with pytest.raises(TimeoutError, match=r"^all workers are gone, 1 pieces of work are left$"):
        list(spread(client, time.sleep, [1]))


def test_real_networks():
    assert verify_spread("sim-tiny", SEED, COUNT, workers=2) == verify(
        "sim-tiny", SEED, count=COUNT
    )


def test_bad_places(capsys, monkeypatch):
    monkeypatch.setattr("hiddenfold.sw.spread.PATIENCE", 1)
    with pytest.raises(ValueError, match=r"^scheduler tcp://127.0.0.1:9 does not answer: start"):
        with remote_workers("tcp://127.0.0.1:9"):
            pass
    with pytest.raises(ValueError, match=r"^verify needs either a number of workers or a sched"):
        verify_spread("sim-tiny", 1, 1)
    command = "verify --target sim-tiny --seed 1 --config x.toml --workers 2"
    assert main(command.split()) == 2
    assert "they need --count" in capsys.readouterr().err
