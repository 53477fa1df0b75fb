"""The data folder's lock and its remembered ports."""

import os
import socket
from pathlib import Path

import pytest

from quotagate.child_process import wait_for_lock
from quotagate.data_folder import PORTS, DataInUseError, free_port, lock_data, remembered_port
from quotagate.supervisor import Part, Supervisor


def test_the_data_folder_has_one_user_at_a_time_and_children_do_not_inherit_it(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        with lock_data(tmp_path):
            supervisor.start(Part(name="child", argv=["/bin/sleep", "60"], env={}))
            with pytest.raises(DataInUseError, match=f"process {os.getpid()}"):
                lock_data(tmp_path)
        lock_data(tmp_path).close()


def test_a_remembered_port_that_is_taken_is_replaced_and_the_new_one_remembered(tmp_path: Path) -> None:
    port = remembered_port(tmp_path, "valkey")
    assert remembered_port(tmp_path, "valkey") == port
    with socket.create_server(("127.0.0.1", port)):
        other = remembered_port(tmp_path, "valkey")
        assert other != port
    assert remembered_port(tmp_path, "valkey") == other
    assert remembered_port(tmp_path, "postgres") != other


def test_free_ports_are_none_that_the_kernel_gives_to_clients() -> None:
    assert free_port() in PORTS
    kernel = Path("/proc/sys/net/ipv4/ip_local_port_range")  # Linux; macOS begins at 49152
    lowest = int(kernel.read_text().split()[0]) if kernel.exists() else 49_152
    assert PORTS.stop <= lowest


def test_a_remembered_port_is_asked_for_only_after_its_former_server_has_gone(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        lock = tmp_path / "valkey.lock"
        supervisor.start(Part(name="former", argv=["/bin/sleep", "0.3"], env={}, lock=lock))
        remembered_port(tmp_path, "valkey")
        wait_for_lock(lock, 0.0)  # raises while anybody holds it
