/* Every error that a person can meet: ERROR_ROW(id, code, status, exit code, meaning). Included by status.h
 * (enum) and status.c (table), so it has no include guard. Codes are documented and never reused; exit codes
 * follow sysexits where it has one:
 *   64 usage · 65 malformed input · 66 input missing · 69 not available here · 70 our bug · 71 operating system limit ·
 *   73 cannot create output · 74 input/output · 75 stopped, run again · 76 a peer was lost, run again */

/* command line and configuration */
ERROR_ROW(USAGE, "E-USAGE", STATUS_BAD_INPUT, 64, "a flag, value or combination is wrong")
ERROR_ROW(CONFIG, "E-CONFIG", STATUS_BAD_INPUT, 64,
          "a configuration file has an unknown key or a wrong value")
ERROR_ROW(RANK_MISMATCH, "E-RANK-MISMATCH", STATUS_PEER, 64,
          "ranks run different programs, models or settings")
ERROR_ROW(TOO_MANY_RANKS, "E-TOO-MANY-RANKS", STATUS_BAD_INPUT, 64,
          "the model cannot be split over so many ranks")

/* model, tokenizer, template files */
ERROR_ROW(FILE_MISSING, "E-FILE-MISSING", STATUS_NOT_FOUND, 66,
          "an input file is missing or unreadable")
ERROR_ROW(MODEL_FORMAT, "E-MODEL-FORMAT", STATUS_BAD_INPUT, 65,
          "the file is of no known weight format")
ERROR_ROW(GGUF, "E-GGUF", STATUS_BAD_INPUT, 65, "a GGUF file is malformed")
ERROR_ROW(GGUF_RANGE, "E-GGUF-RANGE", STATUS_BAD_INPUT, 65,
          "a count, length or offset in a GGUF file is out of range")
ERROR_ROW(SAFETENSORS, "E-SAFETENSORS", STATUS_BAD_INPUT, 65,
          "a safetensors file or its index is malformed")
ERROR_ROW(HF_CONFIG, "E-HF-CONFIG", STATUS_BAD_INPUT, 65, "config.json is malformed or lacks a key")
ERROR_ROW(JSON, "E-JSON", STATUS_BAD_INPUT, 65, "a JSON file is malformed")
ERROR_ROW(TENSOR, "E-TENSOR", STATUS_BAD_INPUT, 65,
          "a tensor is missing or has a wrong shape or type")
ERROR_ROW(MODEL_UNSUPPORTED, "E-MODEL-UNSUPPORTED", STATUS_UNSUPPORTED, 65,
          "the model needs arithmetic that is not supported")
ERROR_ROW(TOKENIZER, "E-TOKENIZER", STATUS_BAD_INPUT, 65,
          "the tokenizer is malformed or not supported")
ERROR_ROW(CHAT_TEMPLATE, "E-CHAT-TEMPLATE", STATUS_BAD_INPUT, 65,
          "the chat template is not recognised")
ERROR_ROW(TEXT, "E-TEXT", STATUS_BAD_INPUT, 65, "an input text or token file is malformed")
ERROR_ROW(NPY, "E-NPY", STATUS_BAD_INPUT, 65,
          "a NumPy array file is malformed or of another type or shape")
ERROR_ROW(PACKED_WEIGHTS, "E-PACKED-WEIGHTS", STATUS_BAD_INPUT, 65,
          "a file of packed weights is malformed, or of another model, split or kernels")
ERROR_ROW(WEIGHTS_IO, "E-WEIGHTS-IO", STATUS_DEVICE, 74, "weights became unreadable while running")

/* batch files and requests */
ERROR_ROW(BATCH_LINE, "E-BATCH-LINE", STATUS_BAD_INPUT, 65, "a line of the batch input is wrong")
ERROR_ROW(BATCH_OUTPUT, "E-BATCH-OUTPUT", STATUS_BAD_INPUT, 65,
          "the output of an earlier run is damaged or of another input")
ERROR_ROW(BATCH_LOCKED, "E-BATCH-LOCKED", STATUS_BAD_INPUT, 73,
          "another job writes the same output")
ERROR_ROW(OUTPUT_CREATE, "E-OUTPUT-CREATE", STATUS_BAD_INPUT, 73,
          "an output file cannot be created")
ERROR_ROW(OUTPUT_WRITE, "E-OUTPUT-WRITE", STATUS_DEVICE, 74,
          "writing or syncing an output file failed")
ERROR_ROW(REQUEST, "E-REQUEST", STATUS_BAD_INPUT, 65, "a request has a wrong or unsupported field")
ERROR_ROW(CONTEXT_LENGTH, "E-CONTEXT-LENGTH", STATUS_BAD_INPUT, 65,
          "prompt and answer are longer than the context or the KV space")
ERROR_ROW(NAN_LOGITS, "E-NAN-LOGITS", STATUS_BAD_INPUT, 65,
          "the logits of a request are not finite")
ERROR_ROW(REQUESTS_FAILED, "E-REQUESTS-FAILED", STATUS_BAD_INPUT, 1,
          "some requests failed and --fail-on-request-error was given")
ERROR_ROW(MACHINE, "E-MACHINE", STATUS_BAD_INPUT, 65, "a machine file is malformed")
ERROR_ROW(PLACEMENT, "E-PLACEMENT", STATUS_BAD_INPUT, 65,
          "a placement does not fit the machine, or is none")
ERROR_ROW(KV_TRACE, "E-KV-TRACE", STATUS_BAD_INPUT, 65, "a KV trace is malformed")

/* machine, ranks, the program itself */
ERROR_ROW(UNAVAILABLE, "E-UNAVAILABLE", STATUS_UNSUPPORTED, 69,
          "a backend, device or library that was asked for is not here")
ERROR_ROW(MEMORY, "E-MEMORY", STATUS_NO_SPACE, 71,
          "memory or another limit of the operating system ran out")
ERROR_ROW(DEVICE, "E-DEVICE", STATUS_DEVICE, 76,
          "an accelerator failed; run again, without it if it fails again")
ERROR_ROW(DEVICE_MEMORY, "E-DEVICE-MEMORY", STATUS_NO_SPACE, 71,
          "an accelerator has no room for what was asked for, or ran out of memory")
ERROR_ROW(DEVICE_ECC, "E-DEVICE-ECC", STATUS_DEVICE, 76,
          "an accelerator's memory has an error that it could not correct")
ERROR_ROW(DEVICE_LOST, "E-DEVICE-LOST", STATUS_DEVICE, 76, "an accelerator is gone or unusable")
ERROR_ROW(DEVICE_KERNEL, "E-DEVICE-KERNEL", STATUS_DEVICE, 76, "a kernel crashed on an accelerator")
ERROR_ROW(DEVICE_LINK, "E-DEVICE-LINK", STATUS_DEVICE, 76,
          "a link between accelerators has an error that it could not correct")
ERROR_ROW(NO_JOB, "E-NO-JOB", STATUS_NOT_FOUND, 69, "no running job answers there")
ERROR_ROW(IO_ENGINE, "E-IO-ENGINE", STATUS_UNSUPPORTED, 71,
          "the way to read and write that was asked for does not work here")
ERROR_ROW(SPILL_CREATE, "E-SPILL-CREATE", STATUS_BAD_INPUT, 73,
          "a spill file cannot be made in this directory")
ERROR_ROW(SPILL_SPACE, "E-SPILL-SPACE", STATUS_NO_SPACE, 74,
          "the disk has no room for the spill file")
ERROR_ROW(SPILL_CRC, "E-SPILL-CRC", STATUS_DEVICE, 74,
          "a block that was read back is not the one that was written")
ERROR_ROW(SPILL_IO, "E-SPILL-IO", STATUS_IO, 74, "reading or writing a spill file failed")
ERROR_ROW(INVARIANT, "E-INVARIANT", STATUS_DEVICE, 70,
          "an invariant of the program broke: please report it")
ERROR_ROW(STOPPED, "E-STOPPED", STATUS_STOPPED, 75,
          "stopped on request; run the same command again to go on")
ERROR_ROW(PEER_LOST, "E-PEER-LOST", STATUS_PEER, 76, "another rank was lost or went silent")
ERROR_ROW(COMM, "E-COMM", STATUS_PEER, 76, "communication between ranks failed")
