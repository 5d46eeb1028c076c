#!/usr/bin/env python3
"""Every .cu file compiles without a warning for every architecture, and no kernel spills more or takes more registers than
kernel_resources.txt allows.

    test_kernel_resources.py [--compare 80,90 | --all] [--write] [FILE.cu ...]

The table has a row a kernel and a column an architecture: registers a thread, and after a + bytes spilled. Numbers are compared for some
architectures, or for all; the rest are compiled without optimizing, which takes half the time. The table holds for one release of
nvcc; under another the numbers are not compared. Exit 77 without nvcc. --write makes the table anew."""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TABLE = HERE / "kernel_resources.txt"
ARCHITECTURES = ["75", "80", "86", "89", "90", "100", "120"]
FLAGS = ["-std=c++17", "-fmad=false", "-Werror", "all-warnings", "-Xcompiler",
         "-Wall,-Wextra,-fno-threadsafe-statics,-fno-exceptions", "-Xptxas", "-v"]
REGISTER_ALLOWANCE = 8


def find_nvcc():
    return shutil.which("nvcc") or next((p for p in ("/usr/local/cuda/bin/nvcc",) if os.access(p, os.X_OK)), None)


def release_of(nvcc):
    return re.search(r"release (\d+\.\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)[1]


def short(name):
    """attend_tiles<(unsigned int)4, (unsigned int)1, (bool)1>(AttendLaunch) as attend_tiles<4,1,1>."""
    name = re.sub(r"^void ", "", name)
    name = re.sub(r"\((?:unsigned int|bool|int)\)", "", name)
    name = re.sub(r"(?:_INTERNAL_\w+|<unnamed>|\(anonymous namespace\))::", "", name)
    name = re.sub(r"\((?!anonymous)[^()]*\)$", "", name)
    name = name.replace("false", "0").replace("true", "1")
    return re.sub(r"(\d)u\b", r"\1", name).replace(" ", "")


def compile_with(nvcc, file, flags, folder):
    """What nvcc reports, and whether it was content."""
    target = tempfile.NamedTemporaryFile(dir=folder, delete=False).name
    done = subprocess.run([nvcc, *FLAGS, *flags, f"-I{ROOT}", "-o", target, file], capture_output=True, text=True)
    return done.stderr, done.returncode == 0


def compile_compared(nvcc, file, architecture, for_host, folder):
    """{kernel: (registers, spilled bytes)} and what nvcc complained of."""
    text, content = compile_with(nvcc, file, ["-O3", f"-arch=sm_{architecture}", "-c" if for_host else "-cubin"], folder)
    if not content:
        return {}, text
    text = subprocess.run(["c++filt"], input=text, capture_output=True, text=True).stdout
    kernels = {}
    for name, spills, registers in re.findall(
            r"Function properties for (.*)\n.*?(\d+) bytes spill stores.*\n.*Used (\d+) registers", text):
        kernels[short(name)] = (int(registers), int(spills))
    return kernels, "" if kernels else "no kernel is reported"


def compile_quickly(nvcc, file, architectures, folder):
    """From 80 on the source is the same for all: its PTX is made once."""
    codes = [f"-gencode=arch=compute_{'80' if int(a) >= 80 else a},code=sm_{a}" for a in architectures]
    text, content = compile_with(nvcc, file, ["-Xcicc", "-O0", "-Xptxas", "-O0", "-fatbin", *codes], folder)
    return {}, "" if content else text


def table_read():
    lines = [line for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    columns = lines[0].split()[1:]
    rows = {}
    for line in lines[1:]:
        words = line.split()
        rows[words[0]] = {c: tuple(map(int, (w + "+0").split("+")[:2])) for c, w in zip(columns, words[1:])}
    return re.search(r"nvcc (\d+\.\d+)", TABLE.read_text())[1], rows


def table_write(release, found):
    width = max(map(len, found))
    lines = [f"# Registers a thread, + bytes spilled, by nvcc {release}. Written by test_kernel_resources.py --all --write.",
             "kernel".ljust(width) + "".join(a.rjust(8) for a in ARCHITECTURES)]
    for name in sorted(found):
        cells = [f"{r}+{s}" if s else str(r) for r, s in (found[name][a] for a in ARCHITECTURES)]
        lines.append(name.ljust(width) + "".join(c.rjust(8) for c in cells))
    TABLE.write_text("\n".join(lines) + "\n")


def complaints_of(found, architectures, whole):
    release, rows = table_read()
    for name in sorted(found):
        for architecture in architectures:
            registers, spills = found[name][architecture]
            if name not in rows:
                yield f"{name} is not in {TABLE.name}"
                break
            allowed_registers, allowed_spills = rows[name][architecture]
            if spills > allowed_spills:
                yield f"{name}, sm_{architecture}: spills {spills} bytes, not {allowed_spills}"
            if registers > allowed_registers + REGISTER_ALLOWANCE:
                yield f"{name}, sm_{architecture}: {registers} registers, not {allowed_registers}"
    for name in sorted(rows.keys() - found.keys()) if whole else ():
        yield f"{TABLE.name} names {name}, which is no kernel"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compare", default="80")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    options = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("skipped: there is no nvcc")
        return 77
    compared = ARCHITECTURES if options.all or options.write else options.compare.split(",")
    others = [a for a in ARCHITECTURES if a not in compared]
    files = options.files or sorted((ROOT / "kernels/cuda").glob("*.cu"))
    found, failed = {}, 0
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {(f, a): pool.submit(compile_compared, nvcc, f, a, a == compared[0], folder) for f in files for a in compared}
        if others:
            jobs |= {(f, " ".join(others)): pool.submit(compile_quickly, nvcc, f, others, folder) for f in files}
        for (file, architecture), job in jobs.items():
            kernels, errors = job.result()
            if errors:
                print(f"{file.name}, sm_{architecture}: {errors}")
                failed += 1
            for name, resources in kernels.items():
                found.setdefault(name, {})[architecture] = resources
    if failed:
        return 1
    release = release_of(nvcc)
    if options.write:
        table_write(release, found)
        return 0
    if release != table_read()[0]:
        print(f"compiled; registers not compared: the table is of nvcc {table_read()[0]}, this is {release}")
        return 0
    complaints = list(complaints_of(found, compared, not options.files))
    print("\n".join(complaints) or f"{len(found)} kernels for sm_{', sm_'.join(compared)}: as the table says")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
