#!/usr/bin/env python3
"""The tree's own neatness, as a test. Each check_… function yields complaints; the lists beside this file hold what is
excused for now; an entry that is no longer needed is said, so that they shrink.

    tidy.py [ROOT]
"""
import fnmatch
import itertools
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

LAYERS = ["runtime/base/", "kernels/", "tiers/", "runtime/", "launch/", "tests/"]
LONG_FUNCTION_LINES = 80
REPEATED_NAMES = {"README.md", "meson.build"}
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def tracked_files(root):
    """What git tracks or would; without git everything but build folders and hidden ones."""
    if shutil.which("git"):
        listed = subprocess.run(["git", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard"],
                                capture_output=True, text=True)
        if listed.returncode == 0:
            return sorted(n for n in listed.stdout.split("\n") if n and (root / n).is_file())
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(n) for n in names if not n.parts[0].startswith(("build", ".")) and "__pycache__" not in n.parts)


class Tree:
    def __init__(self, root):
        self.root = root
        self.files = tracked_files(root)
        self.sources = [f for f in self.files if f.endswith((".c", ".h", ".cu", ".cuh"))]
        self.texts = {f: (root / f).read_text(encoding="utf-8") for f in self.sources}

    def read(self, name):
        return (self.root / name).read_text(encoding="utf-8")


def excused(name):
    """Lines of a list beside this file; '#' starts a comment."""
    path = HERE / name
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def ratchet(list_name, found):
    """found: {key: complaint}. Yields those that are not excused."""
    allowed = set(excused(list_name))
    for key in sorted(allowed - found.keys()):
        print(f"note: tests/tidy/{list_name}: '{key}' is no longer needed: remove the line")
    for key in sorted(found.keys() - allowed):
        yield found[key]


def layer_of(path):
    return next((i for i, layer in enumerate(LAYERS) if path.startswith(layer)), None)


def check_include_direction(tree):
    for file, text in tree.texts.items():
        for target in INCLUDE.findall(text):
            if layer_of(target) is None:
                continue  # generated into the build folder
            if layer_of(target) > layer_of(file):
                yield f"{file} includes {target}, which is a layer above it"


def check_own_header_first(tree):
    for file, text in tree.texts.items():
        header = file[:-2] + ".h"
        if file.endswith(".c") and header in tree.texts and INCLUDE.findall(text)[:1] != [header]:
            yield f"{file} does not include its own header first"


def check_unique_names(tree):
    seen = {}
    for file in tree.files:
        name = pathlib.PurePath(file).name
        if file.startswith(("tests/golden/", "tests/fuzz/corpus")) or name in REPEATED_NAMES or name.startswith("."):
            continue
        if name in seen:
            yield f"{file} and {seen[name]} have the same name"
        seen[name] = file


def check_guards(tree):
    """FOLDER_FILE_H, with as many folders as the author likes; a list that is included several times says that it has none."""
    for file, text in tree.texts.items():
        if not file.endswith(".h") or "no include guard" in text:
            continue
        guard = re.search(r"^#ifndef (\w+)\n#define \1$", text, re.MULTILINE)
        parts = re.sub(r"[/.]", "_", file).upper()
        if not guard or not parts.endswith(guard[1]) or guard[1].count("_") < 2:
            yield f"{file} lacks the guard {parts}"


def function_lengths(text):
    """Name and lines of every function body: with our format it opens at the end of a line and closes in column 0."""
    begin, head = None, ""
    for number, line in enumerate(text.split("\n")):
        if begin is not None:
            if line.startswith("}"):
                yield head, number - begin + 1
                begin = None
            continue
        declared = re.match(r"[A-Za-z_][\w *]*?(\w+)\(", line)
        if declared and not line.startswith(("typedef", "return")):
            head = declared[1]
        if line.endswith(") {") and head:
            begin = number


def check_long_functions(tree):
    found = {}
    for file, text in tree.texts.items():
        for name, lines in function_lengths(text):
            if lines > LONG_FUNCTION_LINES:
                found[f"{file} {name}"] = f"{file}: {name} has {lines} lines; more than {LONG_FUNCTION_LINES} is too long"
    yield from ratchet("long_functions.txt", found)


def check_dead_files(tree):
    builds = {str(pathlib.PurePath(f).parent): tree.read(f) for f in tree.files if f.endswith("meson.build")}
    included = {t for text in tree.texts.values() for t in INCLUDE.findall(text)}
    for file in tree.sources:
        path = pathlib.PurePath(file)
        if file.endswith(".h"):
            if file not in included:
                yield f"{file} is included by nobody"
            continue
        words = [re.escape(path.stem), re.escape(path.stem.split("_", 1)[-1])]  # cmd_run is listed as run
        near = [builds.get(str(parent), "") for parent in path.parents]
        if not any(re.search(rf"\b({'|'.join(words)})\b", text) for text in near):
            yield f"{file} is named in no meson.build"


def named_stems(text):
    """What a page names between backticks, as patterns of file names without their endings: a.c, a.[ch], options*.c, a_{x,y}.c."""
    stems = set()
    for word in re.findall(r"[\w/.*{},\[\]]+", " ".join(re.findall(r"`([^`\n]+)`", text))):
        parts = [part.split(",") for part in re.split(r"[{}]", word.split("/")[-1])]
        stems.update("".join(choice).split(".")[0] for choice in itertools.product(*parts))
    return stems - {"*"}


def check_folder_pages(tree):
    """Every folder with C files has a README.md that names each of them; the page above may speak for a folder."""
    found = {}
    for folder in sorted({str(pathlib.PurePath(f).parent) for f in tree.sources}):
        page = f"{folder}/README.md"
        if page not in tree.files:
            parent = f"{pathlib.PurePath(folder).parent}/README.md"
            if parent not in tree.files or pathlib.PurePath(folder).name + "/" not in tree.read(parent):
                found[folder] = f"{folder} has no README.md"
            continue
        stems = named_stems(tree.read(page))
        for file in tree.sources:
            path = pathlib.PurePath(file)
            if str(path.parent) == folder and not any(fnmatch.fnmatchcase(path.stem, stem) for stem in stems):
                found[file] = f"{page} does not name {path.name}"
    yield from ratchet("unnamed_files.txt", found)


def words_of(tree, meson, variable):
    """The words of a list in a meson.build: variable = ['a', 'b']."""
    match = re.search(rf"^{variable} = \[(.*?)\]", tree.read(meson), re.MULTILINE | re.DOTALL)
    return re.findall(r"'([^']+)'", match.group(1)) if match else []


def check_tables_of_pages(tree):
    """Rows that a list in meson.build makes stand in the page of their folder."""
    for meson, variable, page in (
        ("kernels/quant/meson.build", "quant_formats", "kernels/README.md"),
        ("kernels/codec/meson.build", "codec_families", "kernels/README.md"),
        ("runtime/models/meson.build", "model_families", "runtime/models/README.md"),
        ("launch/meson.build", "commands", "launch/README.md"),
    ):
        if page not in tree.files:
            continue  # check_folder_pages says so
        text = tree.read(page).lower()
        for word in words_of(tree, meson, variable):
            if not re.search(rf"\b{re.escape(word)}\b", text):
                yield f"{page} does not name {word}, which {meson} lists"


def check_error_codes_tested(tree):
    tests = "\n".join(tree.read(f) for f in tree.files
                      if f.startswith("tests/") and f.endswith((".c", ".h", ".py", ".sh")) and "tidy" not in f)
    found = {}
    for name, code in re.findall(r'^ERROR_ROW\((\w+), "(E-[A-Z-]+)"', tree.texts["runtime/base/error_codes.h"], re.MULTILINE):
        if not re.search(rf"\bERROR_{name}\b|{code}\b(?!-)", tests):
            found[code] = f"no test mentions {code}"
    yield from ratchet("untested_codes.txt", found)


def check_words(tree):
    for file, text in tree.texts.items():
        for number, line in enumerate(text.split("\n"), 1):
            if re.search(r"\b(TODO|FIXME|XXX)\b", line):
                yield f"{file}:{number}: a note to do something later: open an issue"
            if line.rstrip() != line or "\t" in line:
                yield f"{file}:{number}: trailing space or tab"
    for file in tree.files:
        if re.search(r"(^|[/_])(utils?|common|misc|helpers?)([._]|$)", file):
            yield f"{file}: the name says nothing"


def check_format(tree):
    program = shutil.which("clang-format-14") or shutil.which("clang-format")
    if program is None or "version 14" not in subprocess.run([program, "--version"], capture_output=True, text=True).stdout:
        return  # another version would judge differently
    files = [f for f in tree.sources if f.endswith((".c", ".h"))]
    done = subprocess.run([program, "--dry-run", "-Werror", *files], cwd=tree.root, capture_output=True, text=True)
    for file in sorted(set(re.findall(r"^(\S+?):\d+:\d+: error", done.stderr, re.MULTILINE))):
        yield f"{file} is not formatted: clang-format -i {file}"


def check_shell(tree):
    if not shutil.which("shellcheck"):
        return
    scripts = [f for f in tree.files if f.endswith((".sh", ".sbatch"))]
    done = subprocess.run(["shellcheck", "-x", "-f", "gcc", *scripts], cwd=tree.root, capture_output=True, text=True)
    yield from done.stdout.splitlines()


def check_headers_stand_alone(tree):
    """Each header compiles by itself, as C11 and as C++17 where there is a C++ compiler."""
    languages = [("cc", "c11", "c")] + ([("g++", "c++17", "c++")] if shutil.which("g++") else [])
    headers = [f for f, text in tree.texts.items() if f.endswith(".h") and "no include guard" not in text]
    for compiler, standard, language in languages:
        with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
            for header in headers:
                source.seek(0)
                source.truncate()
                source.write(f'#include "{header}"\n')
                source.flush()
                done = subprocess.run([compiler, f"-std={standard}", "-x", language, "-fsyntax-only", "-D_GNU_SOURCE", "-I.",
                                       source.name], cwd=tree.root, capture_output=True, text=True)
                if done.returncode != 0:
                    yield f"{header} does not stand alone as {standard}: {done.stderr.splitlines()[0]}"


def main():
    tree = Tree(pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
    passed = failed = 0
    for name, check in list(globals().items()):
        if not name.startswith("check_"):
            continue
        complaints = list(check(tree))
        for complaint in complaints:
            print(f"{name[6:]}: {complaint}")
        failed += bool(complaints)
        passed += not complaints
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
