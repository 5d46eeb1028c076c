#!/usr/bin/env python3
"""Writes a GGUF model again with its 4-bit matrices in another format, for benchmarks on other formats.

    make_quants.py SOURCE.gguf q4_0|q8_0|f16 OUTPUT.gguf

Every matrix of type Q4_0 or Q4_1 is dequantised and quantised anew; everything else is copied. Needs the PyPI packages gguf and
numpy. The result is a benchmark file: its weights have been rounded twice.
"""

import sys

import gguf
import numpy as np

TARGETS = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "q8_0": gguf.GGMLQuantizationType.Q8_0, "f16": gguf.GGMLQuantizationType.F16}
CHANGED = {gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q4_1}


def copy_metadata(reader, writer):
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, element)


def main():
    if len(sys.argv) != 4 or sys.argv[2] not in TARGETS:
        sys.exit(__doc__)
    source, target, output = sys.argv[1], TARGETS[sys.argv[2]], sys.argv[3]
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(output, reader.fields["general.architecture"].contents())
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind in CHANGED:
            values = gguf.quants.dequantize(data, kind).astype(np.float32)
            data, kind = gguf.quants.quantize(values, target), target
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
