#!/usr/bin/env python3
"""Ranks on two nodes: network namespaces on a bridge, each with a host name of its own, and a stand-in for ssh that enters
them. Needs root. Usage: test_two_nodes.py RANK_LOOP COMM_OVER_MPI [NAME…]"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from job import Job, expect, run_tests

BRIDGE = "spillway-test"
NODES = {"spillway-a": "10.77.113.1", "spillway-b": "10.77.113.2"}
# Open MPI itself takes minutes to notice a cut link unless told to look.
KEEPALIVE = {"oob_tcp_keepalive_time": 2, "oob_tcp_keepalive_intvl": 1, "oob_tcp_keepalive_probes": 2}
COMM_TIMEOUT = 3
SECONDS_TO_END = 12  # after the cause was told, Open MPI takes its time to end the ranks of the other nodes


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


class Network:
    def __enter__(self):
        self.__exit__()
        self.folder = tempfile.mkdtemp()
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        for number, (node, address) in enumerate(NODES.items()):
            outside = f"spillway-t{number}"
            ip("netns", "add", node)
            ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", node)
            ip("link", "set", outside, "master", BRIDGE, "up")
            ip("-n", node, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", node, "link", "set", "eth0", "up")
            ip("-n", node, "link", "set", "lo", "up")
        self.agent = os.path.join(self.folder, "agent")
        with open(self.agent, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\nnode=\nfor word; do case $word in 10.77.*) break;; *) shift;; esac; done\n")
            for node, address in NODES.items():
                file.write(f"[ \"$1\" != {address} ] || node={node}\n")
            file.write("shift\nexec ip netns exec $node unshare --uts sh -c \"hostname $node; $*\"\n")
        os.chmod(self.agent, 0o755)
        self.hostfile = os.path.join(self.folder, "hosts")
        with open(self.hostfile, "w", encoding="utf-8") as file:
            file.writelines(f"{address} slots=2\n" for address in NODES.values())
        return self

    def __exit__(self, *_):
        for number, node in enumerate(NODES):
            ip("link", "del", f"spillway-t{number}", check=False)
            ip("netns", "del", node, check=False)
        ip("link", "del", BRIDGE, check=False)
        shutil.rmtree(getattr(self, "folder", "/nonexistent"), ignore_errors=True)

    def words(self, ranks, *program):
        parameters = {"plm_rsh_agent": self.agent, "btl": "tcp,self", "btl_tcp_if_include": "eth0",
                      "oob_tcp_if_include": "eth0", "mpi_yield_when_idle": 1, **KEEPALIVE}
        mca = [word for name, value in parameters.items() for word in ("--mca", name, value)]
        node = next(iter(NODES))
        inside = ["mpirun", "--quiet", "--allow-run-as-root", "--bind-to", "none", "--hostfile", self.hostfile, *mca,
                  "-n", ranks, *program]
        return ["ip", "netns", "exec", node, "unshare", "--uts", "sh", "-c",
                f"hostname {node}; exec {' '.join(map(str, inside))}"]

    def cut(self):
        ip("link", "set", "spillway-t1", "down")

    def mend(self):
        ip("link", "set", "spillway-t1", "up")


def running(network, program, ranks, timeout=COMM_TIMEOUT):
    job = Job(network.words(ranks, program, "--timeout", timeout))
    said = 0
    while said < ranks:
        line = job.process.stderr.readline()
        assert line, "the job ended before it ran: " + "".join(job.lines)
        job.lines.append(line)
        assert "row shared" not in line, "ranks of two nodes cannot share memory"
        said += " is process " in line
    job.find_ranks()
    time.sleep(0.3)
    return job


def test_collectives(network, _, comm_over_mpi):
    for ranks in (2, 3, 4):
        expect(Job(network.words(ranks, comm_over_mpi, "--by-message")), {0}, seconds=60)


def test_normal_end(network, program, _):
    expect(Job(network.words(3, program, "--steps", 50)), {0}, seconds=30)


def test_kill_each_rank(network, program, _):
    for victim in range(4):
        job = running(network, program, 4)
        os.kill(job.rank_process[victim], signal.SIGKILL)
        expect(job, {137, 76}, rf"E-PEER-LOST\].*: rank {victim}@spillway-{'ab'[victim // 2]} .*was killed", seconds=SECONDS_TO_END)


def test_stop_each_rank(network, program, _):
    for victim in (0, 3):
        job = running(network, program, 4, timeout=30)
        os.kill(job.rank_process[victim], signal.SIGSTOP)
        expect(job, {76}, rf"E-PEER-LOST\].*: rank {victim}@spillway-{'ab'[victim // 2]} .*it is stopped", seconds=SECONDS_TO_END)


def test_stop_the_only_rank_of_a_node(network, program, _):
    job = running(network, program, 3)
    os.kill(job.rank_process[2], signal.SIGSTOP)
    expect(job, {76}, rf"no progress for {COMM_TIMEOUT} s", seconds=COMM_TIMEOUT + SECONDS_TO_END)


def test_cut_link(network, program, _):
    """Ranks of both sides and mpirun end; the daemon of the lost node is Open MPI's own and may outlast the cut."""
    job = running(network, program, 4)
    network.cut()
    try:
        code = job.process.wait(COMM_TIMEOUT + SECONDS_TO_END)
        until = time.monotonic() + SECONDS_TO_END
        while (left := set(job.living()) & set(job.rank_process.values())) and time.monotonic() < until:
            time.sleep(0.1)
    except subprocess.TimeoutExpired:
        raise AssertionError("mpirun still runs") from None
    finally:
        network.mend()
        job.clean_up()
    assert code == 76, f"exit code {code}"
    assert not left, f"ranks {left} were left behind"


def main():
    missing = [tool for tool in ("mpirun", "ip", "unshare") if not shutil.which(tool)]
    if missing or os.geteuid() != 0 or ip("netns", "add", "spillway-probe", check=False).returncode != 0:
        print("skipped: needs root, network namespaces, mpirun, ip and unshare")
        return 77
    ip("netns", "del", "spillway-probe")
    tests = {name[5:]: test for name, test in globals().items() if name.startswith("test_")}
    with Network() as network:
        return run_tests(tests, sys.argv[3:], network, *sys.argv[1:3])


if __name__ == "__main__":
    sys.exit(main())
