"""Who serves what: the reports of one replica."""

from __future__ import annotations

from config_rollback.delivery.convergence import MAX_CLIENTS, Clients
from config_rollback.storage.store import Store
from tests.config_rollback.running import Clock


def test_each_process_counts_with_its_newest_report(store: Store, clock: Clock) -> None:
    clients = Clients(store, clock)
    for persona, name, version in (("p", "a", 1), ("p", "b", 1), ("q", "a", 1), ("p", "a", 2)):
        clients.report(persona, name, version)
    assert clients.serving("p") == {1: 1, 2: 1}
    assert clients.by_version() == clients.on_this_replica() == {("p", 1): 1, ("p", 2): 1, ("q", 1): 1}


def test_who_reported_more_than_a_minute_ago_does_not_count(store: Store, clock: Clock) -> None:
    clients = Clients(store, clock)
    clients.report("p", "a", 1)
    clock.move(seconds=31)
    clients.report("p", "b", 2)
    clock.move(seconds=30)
    assert clients.serving("p") == {2: 1}


def test_the_table_of_clients_is_bounded(store: Store, clock: Clock) -> None:
    clients = Clients(store, clock)
    for number in range(MAX_CLIENTS + 5):
        clients.report("p", str(number), 1)
    clients.report("q", "new", 1)
    assert clients.serving("p").total() == MAX_CLIENTS - 1
    assert clients.serving("q").total() == 1
