#!/usr/bin/env python3
"""Running jobs looked at through their sockets, and KV options end to end: test_tiers.py SPILLWAY GOLDEN_MODELS [ranks | NAME...]"""
import contextlib
import json
import os
import pathlib
import pty
import signal
import socket
import stat
import subprocess
import sys
import time

from test_commands import (ENVIRONMENT, LIMIT_S, MODEL, SPILLWAY, main, one_error, run, sampled_lines, start, wait_for_lines,
                           write_lines)

LOWER = ["--kv-device-size", "min", "--block-size", "4", "-b", "8", "--max-num-seqs", "4", "--kv-host-size", "64KiB",
         "--kv-nvme-size", "16MiB"]


def environment(folder):
    """Sockets of this test's jobs lie in its folder, where no other job's are."""
    kept = {name: value for name, value in ENVIRONMENT.items() if name != "XDG_RUNTIME_DIR"}
    return {**kept, "TMPDIR": str(folder)}


def home(folder):
    return folder / f"spillway-{os.geteuid()}"


@contextlib.contextmanager
def running(folder, *more, name="job", lines=4000):
    """A batch that spills and runs for long; killed at the end, unless it has ended by itself."""
    write_lines(folder / f"{name}.jsonl", sampled_lines(lines, 60))
    process = start("batch", MODEL, "-i", folder / f"{name}.jsonl", "-o", folder / f"{name}.out", "--threads", "1", "--quiet",
                    "--kv-nvme-dir", folder, *LOWER, *more, stdin=subprocess.DEVNULL, env=environment(folder))
    try:
        wait_for_lines(folder / f"{name}.out", 3, process)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT_S)


def ask(folder, *arguments, rc=0, **options):
    return run("tiers", *arguments, rc=rc, env=environment(folder), **options)


def sockets(folder):
    return sorted(home(folder).glob("tiers-*.sock"))


def check_view(view, ranks):
    tiers, kv = view["tiers"], view["kv"]
    device, host, nvme = (tiers[name] for name in ("device", "host", "nvme"))
    assert view["ranks"] == ranks and view["running"] + view["waiting"] > 0 and view["steps"] > 0, view
    for tier in tiers.values():
        assert 0 < tier["capacity_bytes"] and tier["used_bytes"] <= tier["peak_bytes"] <= tier["capacity_bytes"], tier
        assert set(tier["moves"]) == {"in", "out"} and set(tier["moves"]["in"]) == {"evict", "prefetch", "demand", "park"}, tier
        assert tier["ranks_off"] == 0 and tier["stall_seconds"] >= 0, tier
    assert abs(sum(tier["hit_share"] for tier in tiers.values()) - 1) < 1e-6, tiers
    assert device["moves"]["in"]["prefetch"]["blocks"] > 0 and device["blocks"]["filling"] + host["blocks"]["sealed"] > 0, tiers
    assert host["moves"]["in"]["evict"]["bytes"] > 0, host
    assert nvme["moves"]["out"]["prefetch"]["blocks"] + nvme["moves"]["out"]["demand"]["blocks"] > 0, nvme
    assert kv["prefetch"]["useful"] > 0 and kv["tier_thread"]["moved_bytes"] > 0, kv


# ---- one rank ----


def test_view(folder):
    with running(folder) as process:
        path, = sockets(folder)
        assert path.name == f"tiers-{process.pid}.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        views = [json.loads(ask(folder, "--json", *which)[0]) for which in ([], [process.pid], [path])]
        for view in views:
            check_view(view, 1)
            assert view["pid"] == process.pid and view["model"] == "llama_text"
        assert views[0]["steps"] < views[2]["steps"]
        text = ask(folder)[0].decode()
        for part in (f"job {process.pid}, llama_text, 1 rank, up ", "\ndevice ", "\nhost ", "\nnvme ", "\nto device  prefetch ",
                     "\nprefetch   ", "\ntier CPU   "):
            assert part in text, text
    assert not sockets(folder)


def test_stuck_clients(folder):
    """Clients that connect and never read, more than the queue of the socket holds, delay nobody."""
    with running(folder) as process:
        path, = sockets(folder)
        stuck = []
        for _ in range(64):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
            stuck.append(client)
        check_view(json.loads(ask(folder, "--json")[0]), 1)
        before = (folder / "job.out").read_bytes().count(b"\n")
        wait_for_lines(folder / "job.out", before + 20, process)
        begin = time.monotonic()
        check_view(json.loads(ask(folder, "--json")[0]), 1)
        assert time.monotonic() - begin < 5
        for client in stuck:
            client.close()
        check_view(json.loads(ask(folder, "--json")[0]), 1)


def test_watch(folder):
    """On a pipe a view a second until the job ends; on a terminal the screen is drawn anew."""
    with running(folder, lines=1500) as process:
        watch = start("tiers", "--watch", "--json", env=environment(folder))
        here, there = pty.openpty()
        screen = subprocess.Popen([SPILLWAY, "tiers", "--watch"], stdout=there, stderr=subprocess.DEVNULL, env=environment(folder))
        os.close(there)
        seen = b""
        while seen.count(b"\x1b[H\x1b[J") < 2 or not seen.rstrip().endswith(b"a GB"):
            seen += os.read(here, 65536)
        screen.kill()
        screen.wait()
        os.close(here)
        assert seen.startswith(b"\x1b[H\x1b[J") and b"nvme" in seen
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_S)
        out, err = watch.communicate(timeout=LIMIT_S)
    views = [json.loads(line) for line in out.splitlines()]
    assert watch.returncode == 0 and len(views) >= 2 and "the job has ended" in err.decode(), err
    assert views[0]["steps"] < views[-1]["steps"]


def test_several_jobs(folder):
    with running(folder, name="a") as first, running(folder, name="b") as second:
        out, err = ask(folder, rc=64)
        assert "2 jobs run" in one_error(err, "E-USAGE")
        for job in (first, second):
            assert f"job {job.pid}, ".encode() in out
            assert json.loads(ask(folder, job.pid, "--json")[0])["pid"] == job.pid


def test_killed_job(folder):
    """What a kill leaves is told from a job that runs, and removed by the next job."""
    with running(folder, name="a") as process:
        process.kill()
        process.wait(LIMIT_S)
        left, = sockets(folder)
    assert "its job has ended" in one_error(ask(folder, left, rc=69)[1], "E-NO-JOB")
    assert f"with pid {process.pid}" in one_error(ask(folder, process.pid, rc=69)[1], "E-NO-JOB")
    with running(folder, name="b") as process:
        assert [path.name for path in sockets(folder)] == [f"tiers-{process.pid}.sock"]


def test_no_job(folder):
    assert "No such file" in one_error(ask(folder, folder / "none.sock", rc=69)[1], "E-NO-JOB")
    plain = folder / "plain"
    plain.write_text("x")
    assert "no socket" in one_error(ask(folder, plain, rc=69)[1], "E-NO-JOB")
    one_error(ask(folder, "x" * 200, rc=69)[1], "E-NO-JOB")
    dumb = socket.socket(socket.AF_UNIX)
    dumb.bind(str(folder / "dumb.sock"))
    dumb.listen(4)
    for answer in (b"[1]\n", b"{\n", b"{}"):
        client = start("tiers", folder / "dumb.sock", env=environment(folder))
        peer, _ = dumb.accept()
        peer.sendall(answer)
        peer.close()
        one_error(client.communicate(timeout=LIMIT_S)[1].decode(), "E-NO-JOB")
        assert client.returncode == 69
    if os.geteuid() == 0:
        folder.chmod(0o755)
        with running(folder, "--tiers-socket", folder / "open.sock"):
            client = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", SPILLWAY, "tiers", folder / "open.sock"],
                                    capture_output=True, env=environment(folder), check=False)
            assert client.returncode == 69 and "belongs to user 0" in one_error(client.stderr.decode(), "E-NO-JOB")


def test_socket_choices(folder):
    with running(folder, "--tiers-socket", "none"):
        assert not home(folder).exists()
    path = folder / "mine.sock"
    with running(folder, "--tiers-socket", path, name="named") as process:
        assert json.loads(ask(folder, path, "--json")[0])["pid"] == process.pid
        line = one_error(run("run", MODEL, "-p", "x", "--quiet", "--tiers-socket", path, rc=73)[1], "E-OUTPUT-CREATE")
        assert str(path) in line and "Address already in use" in line
    assert not path.exists()
    one_error(run("run", MODEL, "-p", "x", "--quiet", "--tiers-socket", folder / "no" / "a.sock", rc=73)[1], "E-OUTPUT-CREATE")
    one_error(run("run", MODEL, "-p", "x", "--quiet", "--tiers-socket", "/" + "x" * 120, rc=73)[1], "E-OUTPUT-CREATE")
    base = ["run", MODEL, "--raw", "-p", "x", "-n", "4", "--progress", "none", "--kv-nvme-dir", folder, *LOWER]
    home(folder).mkdir(mode=0o755)
    fallback = pathlib.Path("/tmp") / home(folder).name
    err = run(*base, env=environment(folder))[1]
    assert not sockets(folder) and (fallback.exists() or "cannot ask this job" in err)


# ---- budgets and folders ----


def test_sizes(folder):
    """Per cent, folders of the environment, and what is wrong with them."""
    summary = folder / "summary.json"
    base = ["run", MODEL, "--raw", "-p", "x", "-n", "4", "--threads", "1", "--block-size", "4", "--summary-json", summary]

    def capacities(*more, **options):
        err = run(*base, *more, **options)[1]
        tiers = json.loads(summary.read_text())["tiers"]
        return [tiers[name]["capacity_bytes"] for name in ("device", "host", "nvme")], err

    needed = capacities("--kv-host-size", "1GiB")[0][1]
    assert capacities("--kv-host-size", "50%")[0][1] == needed > 0
    tight = f"{100 * (1 << 20) / (os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize):.9f}%"
    some, err = capacities("--kv-nvme-size", tight, "--kv-nvme-dir", folder, "--kv-nvme-dir", f"{folder}/.")
    assert 0.5 * (1 << 20) < some[2] < 1.5 * (1 << 20), (tight, some)
    assert err.count(f'spill file in "{folder}') == 2 and err.count(" allocated, file system ") == 2, err
    assert "spill I/O: " in err and "depth 128, files " in err and "staging registered" in err, err
    assert "say how much" in one_error(run(*base, "--kv-nvme-dir", folder, rc=64)[1], "E-USAGE")
    one_error(run(*base, "--kv-nvme-size", "101%", "--kv-nvme-dir", folder, rc=64)[1], "E-USAGE")
    plain = folder / "plain"
    plain.write_text("x")
    for wrong, text in ((folder / "none", "No such file"), (plain, "Not a directory")):
        for size in ("1MiB", tight):
            line = one_error(run(*base, "--kv-nvme-dir", wrong, "--kv-nvme-size", size, rc=73)[1], "E-SPILL-CREATE")
            assert str(wrong) in line and text in line, line
    if os.path.isdir("/dev/shm"):
        err = run(*base, "--quiet", "--kv-nvme-dir", "/dev/shm", "--kv-nvme-size", "1MiB")[1]
        assert err.count("lies in memory") == 1, err


def test_scratch(folder):
    """Without --kv-nvme-dir the job's scratch folder is taken, and said, but none that is no disk of this machine."""
    base = ["run", MODEL, "--raw", "-p", "x", "-n", "4", "--threads", "1", "--block-size", "4", "--kv-nvme-size", "1MiB"]
    kept = {name: value for name, value in ENVIRONMENT.items() if name not in ("TMPDIR", "SLURM_TMPDIR", "PBS_JOBDIR")}
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
    refused = {"SLURM_TMPDIR": str(folder / "none")}
    if os.path.isdir("/dev/shm"):
        refused["TMPDIR"] = "/dev/shm"
    line = one_error(run(*base, env={**kept, **refused}, rc=64)[1], "E-USAGE")
    assert f'say where; $SLURM_TMPDIR, "{folder}/none": No such file' in line, line
    assert ("lies in memory" in line) == ("TMPDIR" in refused), line
    assert one_error(run(*base, env=kept, rc=64)[1], "E-USAGE").endswith("say where")
    if kind in ("tmpfs", "nfs"):
        return  # a folder of tests like that is refused itself
    for variables, chosen in (({**refused, "PBS_JOBDIR": folder}, "PBS_JOBDIR"), ({"TMPDIR": folder}, "TMPDIR"),
                              ({"SLURM_TMPDIR": folder, "TMPDIR": "/dev/shm"}, "SLURM_TMPDIR")):
        err = run(*base, env={**kept, **variables})[1]
        assert f'spill file in "{folder}", which is ${chosen}: ' in err, err


# ---- attention on the host ----


def test_attend_host(folder):
    """Said at the start and counted at the end; refused where it would change nothing."""
    summary = folder / "summary.json"
    base = ["run", MODEL, "--raw", "-p", "abc " * 12, "-n", "12", "--ignore-eos", "--temperature", "0", "--threads", "1",
            "--block-size", "4", "-b", "8", "--kv-device-size", "min", "--max-num-seqs", "1", "--summary-json", summary]
    host = ["--attend", "host", "--kv-host-size", "1MiB"]
    line = one_error(run(*base, "--backend", "cpu", *host, rc=69)[1], "E-UNAVAILABLE")
    assert "--attend host: device cpu computes in host memory" in line, line
    checks = json.loads(run("doctor", "--json")[0])
    if "emulated" not in next(check["finding"] for check in checks if check["check"] == "backends"):
        return  # a build without the emulation
    base += ["--backend", "emulated"]
    line = one_error(run(*base, "--attend", "host", "--kv-nvme-size", "1MiB", "--kv-nvme-dir", folder, rc=64)[1], "E-USAGE")
    assert "see --kv-host-size" in line, line
    answers = []
    for attend in ([], host):
        out, err = run(*base, "--kv-host-size", "1MiB", *attend)
        answers.append(out)
        kv = json.loads(summary.read_text())["kv"]["host_attention"]
        said = ["attention: decode attends blocks in host memory there, kernels ", "--attend host: which blocks the CPU attends"]
        assert all((text in err) == bool(attend) for text in said), err
        assert (kv["blocks"] > 0) == (kv["stayed_bytes"] > 0) == (kv["partial_bytes"] > 0) == bool(attend), kv
    assert answers[0] == answers[1]


# ---- placements ----


def placed(folder, placement, *more):
    """Answers and device hit share of a run that spills with this placement."""
    summary, output = folder / "summary.json", folder / f"{placement}.out"
    lower = ["--kv-device-size", "150KiB", "--block-size", "4", "-b", "8", "--max-num-seqs", "2", "--kv-nvme-size", "16MiB"]
    run("batch", MODEL, "-i", folder / "in.jsonl", "-o", output, "--threads", "1", "--quiet", "--kv-nvme-dir", folder, *lower,
        "--kv-placement", placement, "--summary-json", summary, *more)
    tiers = json.loads(summary.read_text())["tiers"]
    assert tiers["nvme"]["hits"] > 0, placement
    return sorted(output.read_bytes().splitlines()), tiers["device"]["hit_share"]


def test_placements(folder):
    """Every policy of the table can be chosen or says why not; none changes an answer, all use the same blocks in the same order,
    and none hits more often than the one that knows the future, but for what transfers in flight make of it."""
    write_lines(folder / "in.jsonl", sampled_lines(12, 60))
    trace, again = folder / "a.trace", folder / "b.trace"
    answers, scan = placed(folder, "scan", "--kv-trace-out", trace)
    shares = {"scan": scan}
    for placement in ("lru", "clock", "arc"):
        got, shares[placement] = placed(folder, placement, "--kv-trace-out", again)
        assert got == answers and again.read_bytes() == trace.read_bytes(), placement
    got, best = placed(folder, "belady", "--kv-trace", trace)
    assert got == answers and best > max(shares.values()) - 0.02, (best, shares)
    assert shares["scan"] > shares["lru"] + 0.1 and best > shares["lru"] + 0.1, (best, shares)
    base = ["run", MODEL, "-p", "x", "--quiet", "--kv-placement"]
    assert "attention mass" in one_error(run(*base, "mass", rc=64)[1], "E-USAGE")
    assert "needs --kv-trace" in one_error(run(*base, "belady", rc=64)[1], "E-USAGE")
    assert "no use" in one_error(run(*base, "lru", "--kv-trace", trace, rc=64)[1], "E-USAGE")
    line = one_error(run(*base, "fifo", rc=64)[1], "E-USAGE")
    for placement in ("scan", "lru", "clock", "arc", "mass", "belady"):
        assert placement in line, line
    good = trace.read_bytes()
    for bytes_, code, rc in ((good[:-3], "E-KV-TRACE", 65), (good[:8], "E-KV-TRACE", 65), (b"", "E-KV-TRACE", 65),
                             (b"x" + good[1:], "E-KV-TRACE", 65)):
        trace.write_bytes(bytes_)
        one_error(run(*base, "belady", "--kv-trace", trace, rc=rc)[1], code)
    one_error(run(*base, "belady", "--kv-trace", folder / "none", rc=66)[1], "E-FILE-MISSING")
    one_error(run(*base, "belady", "--kv-trace", folder, rc=66)[1], "E-FILE-MISSING")
    one_error(run(*base, "lru", "--kv-trace-out", folder / "no" / "a", rc=73)[1], "E-OUTPUT-CREATE")
    one_error(run(*base, "lru", "--kv-trace-out", "/dev/full", rc=74)[1], "E-OUTPUT-WRITE")


# ---- on two ranks ----


def ranks_errors(folder):
    """What every rank meets is told once."""
    base = ["run", MODEL, "-p", "x", "--quiet", "--threads", "1"]
    for code, rc, *more in (("E-TOO-MANY-RANKS", 64, "--ranks", "7"), ("E-FILE-MISSING", 66, "--model", folder / "none"),
                            ("E-USAGE", 64, "--max-model-len", "999999"), ("E-CONTEXT-LENGTH", 65, "--kv-device-size", "1KiB"),
                            ("E-SPILL-CREATE", 73, "--kv-nvme-size", "1MiB", "--kv-nvme-dir", folder / "none"),
                            ("E-USAGE", 64, "--kv-nvme-dir", folder), ("E-USAGE", 64, "--fault", "nonsense"),
                            ("E-IO-ENGINE", 71, "--kv-nvme-size", "1MiB", "--kv-nvme-dir", folder, "--io", "uring", "--fault",
                             "io.setup:eperm")):
        ranks = [] if more[0] == "--ranks" else ["--ranks", "2"]
        model = [] if more[0] == "--model" else [MODEL]
        one_error(run("run", *model, *base[2:], *ranks, *more, rc=rc)[1], code)


def ranks_view(folder):
    """The figures are those of both ranks; clients that never read delay neither."""
    with running(folder, "--ranks", "2") as process:
        path, = sockets(folder)
        stuck = socket.socket(socket.AF_UNIX)
        stuck.connect(str(path))
        view = json.loads(ask(folder, "--json")[0])
        check_view(view, 2)
        assert view["pid"] != process.pid and path.name == f"tiers-{view['pid']}.sock"
        before = (folder / "job.out").read_bytes().count(b"\n")
        wait_for_lines(folder / "job.out", before + 20, process)
        assert view["tiers"]["host"]["capacity_bytes"] > 32 << 10  # of 64 KiB a node, half a rank
        assert "2 ranks" in ask(folder)[0].decode()
        stuck.close()
    assert not sockets(folder)


if __name__ == "__main__":
    sys.exit(main(globals()))
