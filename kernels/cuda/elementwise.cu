/* One output an input element. Four elements a thread where every row begins at 16 bytes, else one: an element's value does not
 * depend on which. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"

enum { ELEMENT_THREADS = 256 };

struct Add {
    static const bool two_operands = true;
    DEVICE float of(float a, float b) { return a + b; }
};

struct SiluMultiply {
    static const bool two_operands = true;
    DEVICE float of(float a, float b) { return a / (1.0f + exponential(-a)) * b; }
};

/* a NaN stays a NaN */
struct Relu {
    static const bool two_operands = false;
    DEVICE float of(float a, float b) {
        (void)b;
        return a < 0.0f ? 0.0f : a;
    }
};

template <class Operation> KERNEL(ELEMENT_THREADS) void elements_one(ElementwiseArgs args) {
    uint32_t i = block_index().x * ELEMENT_THREADS + thread_index().x;
    uint64_t row = block_index().y;
    if (i >= args.element_count) return;
    float b = Operation::two_operands ? args.b[row * args.b_stride + i] : 0.0f;
    args.out[row * args.out_stride + i] = Operation::of(args.a[row * args.a_stride + i], b);
}

template <class Operation> KERNEL(ELEMENT_THREADS) void elements_four(ElementwiseArgs args) {
    uint32_t i = 4 * (block_index().x * ELEMENT_THREADS + thread_index().x);
    uint64_t row = block_index().y;
    if (i >= args.element_count) return;
    Float4 a = load4(args.a + row * args.a_stride + i), b = a;
    if (Operation::two_operands) b = load4(args.b + row * args.b_stride + i);
    a.x = Operation::of(a.x, b.x);
    a.y = Operation::of(a.y, b.y);
    a.z = Operation::of(a.z, b.z);
    a.w = Operation::of(a.w, b.w);
    store4(args.out + row * args.out_stride + i, a);
}

static bool rows_aligned(const float *rows, uint64_t stride) {
    return (uintptr_t)rows % 16 == 0 && stride % 4 == 0;
}

template <class Operation>
static void elements_launch(DeviceStream *stream, const ElementwiseArgs *args) {
    bool four = args->element_count % 4 == 0 && rows_aligned(args->a, args->a_stride) &&
                rows_aligned(args->out, args->out_stride) &&
                (!Operation::two_operands || rows_aligned(args->b, args->b_stride));
    uint32_t items = four ? args->element_count / 4 : args->element_count;
    Extent3 grid = extent((items + ELEMENT_THREADS - 1) / ELEMENT_THREADS, args->row_count);
    if (four)
        LAUNCH(elements_four<Operation>, grid, extent(ELEMENT_THREADS), 0, stream, *args);
    else
        LAUNCH(elements_one<Operation>, grid, extent(ELEMENT_THREADS), 0, stream, *args);
}

static void add_launch(DeviceStream *stream, const ElementwiseArgs *args) {
    elements_launch<Add>(stream, args);
}

static void silu_multiply_launch(DeviceStream *stream, const ElementwiseArgs *args) {
    elements_launch<SiluMultiply>(stream, args);
}

static void relu_launch(DeviceStream *stream, const ElementwiseArgs *args) {
    elements_launch<Relu>(stream, args);
}

extern "C" void PORT_NAME(elementwise_fill)(CudaLaunchers *launchers) {
    launchers->add = add_launch;
    launchers->silu_multiply = silu_multiply_launch;
    launchers->relu = relu_launch;
}
