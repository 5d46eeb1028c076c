"""Reads what the golden folders hold, with the Python standard library alone."""
import array
import ast
import json
import math
import pathlib
import struct

MODELS = pathlib.Path(__file__).resolve().parent.parent / "golden" / "models"


def model_path(name):
    """The GGUF file of a golden model, else its folder."""
    file = MODELS / name / f"{name}.gguf"
    return file if file.exists() else MODELS / name


def model_names():
    return sorted(p.name for p in MODELS.iterdir() if p.is_dir())


def token_count():
    return len(json.loads((MODELS / "tokens.json").read_text()))


def load_npy(path):
    """float32 [rows][columns] in C order: (rows, columns, array)."""
    data = pathlib.Path(path).read_bytes()
    if data[:6] != b"\x93NUMPY":
        raise ValueError(f"{path}: not a .npy file")
    length_bytes = 2 if data[6] == 1 else 4
    (length,) = struct.unpack_from("<H" if length_bytes == 2 else "<I", data, 8)
    header = ast.literal_eval(data[8 + length_bytes : 8 + length_bytes + length].decode())
    if header["descr"] != "<f4" or header["fortran_order"] or len(header["shape"]) != 2:
        raise ValueError(f"{path}: {header}: expected float32, C order, two dimensions")
    values = array.array("f")
    values.frombytes(data[8 + length_bytes + length :])
    rows, columns = header["shape"]
    if len(values) != rows * columns:
        raise ValueError(f"{path}: {len(values)} values, the header says {rows} x {columns}")
    return rows, columns, values


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
