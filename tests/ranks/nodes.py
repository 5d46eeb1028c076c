"""Two nodes as network namespaces on a bridge, each with a host name of its own, and a stand-in for ssh that enters them."""

import os
import shutil
import subprocess
import tempfile

from job import MARK, Job

BRIDGE = "spillway-test"
NODES = {"spillway-a": "10.77.113.1", "spillway-b": "10.77.113.2"}
# Open MPI itself takes minutes to notice a cut link unless told to look.
KEEPALIVE = {"oob_tcp_keepalive_time": 2, "oob_tcp_keepalive_intvl": 1, "oob_tcp_keepalive_probes": 2}


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


def missing():
    """Why there cannot be two nodes here; "" when there can."""
    tools = [tool for tool in ("mpirun", "ip", "nsenter", "unshare") if not shutil.which(tool)]
    if tools or os.geteuid() != 0:
        return f"needs root{''.join(', ' + tool for tool in tools)}"
    if ip("netns", "add", "spillway-probe", check=False).returncode != 0:
        return "network namespaces are forbidden here"
    ip("netns", "del", "spillway-probe")
    if subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], check=False, capture_output=True).returncode != 0:
        return "namespaces of processes are forbidden here"
    return ""


def inside(node, *words):
    """The command on that node."""
    return ["nsenter", f"--net=/run/netns/{node}", "unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', node,
            *map(str, words)]


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
            # As behind ssh, nothing of the environment comes along, but for the mark.
            file.write(f'shift\nexec env -i PATH="$PATH" {MARK}="${MARK}" ip netns exec $node unshare --uts sh -c "hostname $node; $*"\n')
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

    def environment(self):
        """What mpirun must know of this network."""
        parameters = {"plm_rsh_agent": self.agent, "btl": "tcp,self", "btl_tcp_if_include": "eth0",
                      "oob_tcp_if_include": "eth0", "mpi_yield_when_idle": 1, **KEEPALIVE}
        return {f"OMPI_MCA_{name}": str(value) for name, value in parameters.items()}

    def job(self, ranks, *program):
        words = inside(next(iter(NODES)), "mpirun", "--quiet", "--allow-run-as-root", "--bind-to", "none",
                       "--hostfile", self.hostfile, "-n", ranks, *program)
        return Job(words, environment=self.environment())

    def cut(self):
        ip("link", "set", "spillway-t1", "down")

    def mend(self):
        ip("link", "set", "spillway-t1", "up")
