"""A Slurm of two nodes, on the namespaces of nodes.py: munged, slurmctld and a slurmd each, on the ports of those namespaces and
in a folder of their own. It ends what it started; a test that may itself be killed runs in a namespace of processes
(contain), which nothing outlives."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

from job import MARK, living
from nodes import NODES, inside

SECONDS_TO_START = 30
SECONDS_TO_CALL = 30
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
HEAD = next(iter(NODES))

# Requeued jobs wait for cred_expire seconds, two minutes unless told. Time limits are looked at every 30 s. A node has more CPUs than
# this machine, so that several jobs run at once.
CONFIG = """ClusterName=spillway
SlurmctldHost={head}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
CompleteWait=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n/spool
TmpFS={folder}/%n/tmp
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n/slurmd.log
"""


def missing():
    """The programs of Slurm and munge that are not here."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    return [name for name in DAEMONS if not shutil.which(name, path=path)]


def log_of(path):
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def contain():
    """This program again, as the first process of a namespace: when it is gone, so is all that it started."""
    if os.environ.get("TEST_IS_CONTAINED"):
        return
    os.environ["TEST_IS_CONTAINED"] = "1"
    os.execvp("unshare", ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, *sys.argv])


class CannotStart(Exception):
    """This machine lacks what Slurm needs."""


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        self.mark = f"slurm-{os.getpid()}-{time.monotonic_ns()}"
        self.environment = {**os.environ, "SLURM_CONF": os.path.join(folder, "slurm.conf"), MARK: self.mark,
                            "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        self.daemons = []

    def __enter__(self):
        try:
            self.start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_all(self):
        self.write_files()
        self.start("munged", "--foreground", "--force", "--num-threads=2", *(
            f"--{name}={self.folder}/munge.{ending}" for name, ending in (
                ("socket", "socket"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))))
        self.wait_for(lambda: os.path.exists(f"{self.folder}/munge.socket"), "munged")
        self.start("slurmctld", "-D")
        for node in NODES:
            self.start("slurmd", "-D", "-N", node, node=node)
        self.wait_for(lambda: self.idle_nodes() == len(NODES), "slurmd")

    def __exit__(self, *_):
        for process in self.daemons[::-1]:
            process.terminate()
        until = time.monotonic() + 5
        while living(self.mark) and time.monotonic() < until:
            time.sleep(0.1)
        for process in living(self.mark):
            os.kill(process, signal.SIGKILL)
        for process in self.daemons:
            process.wait()

    def write_files(self):
        os.mkdir(os.path.join(self.folder, "state"))
        for node in NODES:
            for name in ("spool", "tmp"):
                os.makedirs(os.path.join(self.folder, node, name))
        with open(os.open(os.path.join(self.folder, "munge.key"), os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(os.urandom(128))
        with open(self.environment["SLURM_CONF"], "w", encoding="utf-8") as file:
            file.write(CONFIG.format(head=HEAD, address=NODES[HEAD], folder=self.folder))
            file.writelines(f"NodeName={node} NodeAddr={address} CPUs=16\n" for node, address in NODES.items())
            file.write("PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1\n")
            file.write("PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2\n")

    def start(self, *words, node=HEAD):
        self.daemons.append(subprocess.Popen(inside(node, *words), env=self.environment, stdin=subprocess.DEVNULL,
                                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def wait_for(self, condition, what):
        until = time.monotonic() + SECONDS_TO_START
        while not condition():
            ended = any(process.poll() is not None for process in self.daemons)
            if ended and "cgroup" in self.last_words():
                raise CannotStart(f"slurmd finds no control groups: {self.last_words()}")
            if ended or time.monotonic() > until:
                raise RuntimeError(f"{what} does not start: {self.last_words()}")
            time.sleep(0.1)

    def last_words(self):
        logs = ["munge.log", "slurmctld.log", *(f"{node}/slurmd.log" for node in NODES)]
        return " | ".join(" ".join(log_of(os.path.join(self.folder, name)).splitlines()[-3:]) for name in logs)

    def call(self, *words, check=True, **environment):
        """Standard output of one of Slurm's commands."""
        done = subprocess.run(inside(HEAD, *words), env={**self.environment, **environment}, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=SECONDS_TO_CALL)
        assert not check or done.returncode == 0, f"{words[0]}: {done.stderr}"
        return done.stdout

    def idle_nodes(self):
        return self.call("sinfo", "--noheader", "--partition=all", "--Node", "--format=%T", check=False).split().count("idle")

    def show(self, job):
        """What scontrol tells of a job: {"JobState": …, "Restarts": …}."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "--oneliner", "show", "job", job)))

    def processes(self, job, name):
        """Of that name, in a job."""
        found = []
        for process in living(self.mark):
            try:
                with open(f"/proc/{process}/environ", "rb") as file:
                    ours = f"\0SLURM_JOB_ID={job}\0".encode() in b"\0" + file.read()
                with open(f"/proc/{process}/comm", encoding="utf-8") as file:
                    if ours and file.read().strip() == name:
                        found.append(process)
            except OSError:
                continue
        return found
