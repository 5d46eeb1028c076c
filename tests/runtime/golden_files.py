"""Reads what the golden folders hold, with the Python standard library alone."""
import array
import ast
import math
import pathlib
import struct
import zipfile

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"
MODELS = GOLDEN / "models"
TYPE_CODES = {"<f4": "f", "<u2": "H", "<i4": "i"}


def model_path(name):
    """The GGUF file of a golden model, else its folder."""
    file = MODELS / name / f"{name}.gguf"
    return file if file.exists() else MODELS / name


def model_names():
    return sorted(p.name for p in MODELS.iterdir() if p.is_dir())


def parse_npy(data, name):
    """C order, one or two dimensions: (rows, columns, array); one dimension is one row."""
    if data[:6] != b"\x93NUMPY":
        raise ValueError(f"{name}: not a .npy file")
    length_bytes = 2 if data[6] == 1 else 4
    (length,) = struct.unpack_from("<H" if length_bytes == 2 else "<I", data, 8)
    header = ast.literal_eval(data[8 + length_bytes : 8 + length_bytes + length].decode())
    shape = header["shape"]
    if header["descr"] not in TYPE_CODES or header["fortran_order"] or len(shape) not in (1, 2):
        raise ValueError(f"{name}: {header} is not read here")
    values = array.array(TYPE_CODES[header["descr"]])
    values.frombytes(data[8 + length_bytes + length :])
    rows, columns = shape if len(shape) == 2 else (1, shape[0])
    if len(values) != rows * columns:
        raise ValueError(f"{name}: {len(values)} values, the header says {rows} x {columns}")
    return rows, columns, values


def load_npy(path):
    return parse_npy(pathlib.Path(path).read_bytes(), path)


def load_npz(path):
    """{"name.npy": (rows, columns, array)}"""
    with zipfile.ZipFile(path) as archive:
        return {name: parse_npy(archive.read(name), f"{path}:{name}") for name in archive.namelist()}


def differences(found, golden):
    """(largest, root mean square) of the differences, both as shares of the golden values' deviation from their mean."""
    if found[:2] != golden[:2]:
        raise ValueError(f"shape {found[:2]}, expected {golden[:2]}")
    count = len(golden[2])
    mean = math.fsum(golden[2]) / count
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in golden[2]) / count)
    largest = square = 0.0
    for a, b in zip(found[2], golden[2]):
        difference = abs(a - b)
        if not difference <= 1e30:  # also NaN
            return math.inf, math.inf
        largest = max(largest, difference)
        square += difference * difference
    return largest / deviation, math.sqrt(square / count) / deviation
