from __future__ import annotations

from pathlib import Path

import pytest

from icosfl.errors import UserError
from icosfl.fleet import ports
from icosfl.fleet.definition import Layout
from icosfl.fleet.ports import Family, Listener, listeners, refuse_foreign


@pytest.fixture
def family(tmp_path: Path) -> Family:
    return Family(Layout(tmp_path), 0)


def test_another_user_s_process_is_refused_without_a_name(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "listeners", lambda wanted: {8080: Listener(8080, 0, "")})

    with pytest.raises(UserError, match=r"port 8080 \(host_metrics\) is already used by a process of another user"):
        refuse_foreign({"host_metrics": 8080, "otlp": 4317}, family)


def test_free_ports_are_nobody_s(family: Family) -> None:
    assert listeners([]) == {}
    assert refuse_foreign({}, family) == ()


def test_a_process_that_is_gone_belongs_to_nobody(family: Family) -> None:
    gone = 2**22 + 1  # above the kernel's highest process id

    assert not family.owns(gone)
    assert family.service_pid(gone) == 0
