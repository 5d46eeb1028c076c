#ifndef CUDA_EMULATION_PORT_EMULATED_CUH
#define CUDA_EMULATION_PORT_EMULATED_CUH

/* port.cuh's words for the host's C++ compiler: each does what the GPU would and checks that it may (emulated_grid.h). */

#include <math.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#include "kernels/cuda/emulation/emulated_device.h"
#include "kernels/cuda/emulation/emulated_grid.h"
#include "kernels/quant.h"

#define PORT_NAME(name) name##_emulated

#define KERNEL(threads) static
#define KERNEL_BLOCKS(threads, blocks) static
#define DEVICE          static inline __attribute__((unused))
#define HOST_DEVICE     static inline __attribute__((unused))

static inline Extent3 extent(uint32_t x, uint32_t y = 1, uint32_t z = 1) {
    return Extent3{x, y, z};
}

template <class T>
static inline void emulated_check_argument(const EmulatedArguments *, const T &) {}
template <class T>
static inline void emulated_check_argument(const EmulatedArguments *check, T *pointer) {
    emulated_arguments_pointer(check, (const void *)pointer);
}

/* A kernel and its arguments, copied: it runs later. */
template <class... Parameters> struct EmulatedCall {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;

    static void run(const void *call) {
        const EmulatedCall *mine = static_cast<const EmulatedCall *>(call);
        std::apply(mine->kernel, mine->arguments);
    }
};

/* Arguments become the kernel's parameter types here, as in a call. */
template <class... Parameters>
static inline void emulated_launch(DeviceStream *stream, EmulatedLaunch launch,
                                   void (*kernel)(Parameters...),
                                   std::common_type_t<Parameters>... arguments) {
    static_assert((std::is_trivially_copyable<Parameters>::value && ...),
                  "arguments of a kernel are plain data");
    EmulatedArguments check = {stream, launch.kernel, 0};
    ((emulated_check_argument(&check, arguments), check.index++), ...);
    EmulatedCall<Parameters...> call = {kernel, {arguments...}};
    launch.run = call.run;
    launch.arguments = &call;
    emulated_device_launch(stream, &launch, sizeof call);
}

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                    \
    emulated_launch(                                                                              \
        stream, EmulatedLaunch{#kernel, grid, block, (uint64_t)(shared_bytes), nullptr, nullptr}, \
        kernel, __VA_ARGS__)

DEVICE Extent3 thread_index() {
    return emulated_place()->thread_index;
}
DEVICE Extent3 block_index() {
    return emulated_place()->block_index;
}
DEVICE Extent3 block_extent() {
    return emulated_place()->block;
}
DEVICE Extent3 grid_extent() {
    return emulated_place()->grid;
}
DEVICE uint32_t flat_thread_index() {
    return emulated_place()->flat_thread_index;
}
DEVICE uint32_t warp_lane() {
    return flat_thread_index() % WARP_LANES;
}
DEVICE uint32_t warp_index() {
    return flat_thread_index() / WARP_LANES;
}

/* The line is that of the call. */
DEVICE void block_sync(int line = __builtin_LINE()) {
    emulated_block_sync(line);
}
DEVICE void warp_sync(int line = __builtin_LINE()) {
    emulated_warp_sync(line);
}

/* What every lane handed over, until the lane's next warp operation: for tensor products, which would be many shuffles. */
template <class T> struct EmulatedLanes {
    const uint8_t *all;
    T operator[](uint32_t lane) const {
        T theirs;
        memcpy(&theirs, all + lane * EMULATED_EXCHANGE_BYTES_MAX, sizeof theirs);
        return theirs;
    }
};
template <class T>
DEVICE EmulatedLanes<T> emulated_lanes(const T &value, int line = __builtin_LINE()) {
    return {emulated_warp_exchange("a tensor product", line, &value, sizeof value)};
}

template <class T> DEVICE T emulated_from_lane(const char *what, int line, T value, uint32_t lane) {
    const uint8_t *all = emulated_warp_exchange(what, line, &value, sizeof value);
    T theirs;
    memcpy(&theirs, all + lane % WARP_LANES * EMULATED_EXCHANGE_BYTES_MAX, sizeof theirs);
    return theirs;
}
template <class T> DEVICE T warp_shuffle(T value, uint32_t lane, int line = __builtin_LINE()) {
    return emulated_from_lane("warp_shuffle", line, value, lane);
}
template <class T> DEVICE T warp_shuffle_xor(T value, uint32_t mask, int line = __builtin_LINE()) {
    return emulated_from_lane("warp_shuffle_xor", line, value, warp_lane() ^ mask);
}
template <class T>
DEVICE T warp_shuffle_down(T value, uint32_t delta, int line = __builtin_LINE()) {
    uint32_t lane = warp_lane() + delta;
    return emulated_from_lane("warp_shuffle_down", line, value,
                              lane < WARP_LANES ? lane : warp_lane());
}
DEVICE uint32_t warp_ballot(bool vote, int line = __builtin_LINE()) {
    const uint8_t *all = emulated_warp_exchange("warp_ballot", line, &vote, sizeof vote);
    uint32_t votes = 0;
    for (uint32_t lane = 0; lane < WARP_LANES; lane++)
        votes |= (uint32_t)(all[lane * EMULATED_EXCHANGE_BYTES_MAX] != 0) << lane;
    return votes;
}

/* One element, read or written when it is used as a value. */
template <class T> class SharedElement {
  public:
    SharedElement(T *array, uint64_t index, uint64_t count)
        : array_(array), index_(index), count_(count) {}
    operator T() const {
        touch(false);
        return array_[index_];
    }
    T operator=(T value) const {
        touch(true);
        return array_[index_] = value;
    }
    T operator=(const SharedElement &other) const { return *this = (T)other; }
    T operator+=(T value) const { return *this = (T)((T) * this + value); }
    T operator-=(T value) const { return *this = (T)((T) * this - value); }
    T operator*=(T value) const { return *this = (T)((T) * this * value); }

  private:
    void touch(bool write) const {
        EmulatedAccess access = {array_ + index_, sizeof(T), write, index_, count_};
        emulated_shared_access(&access);
    }
    T *array_;
    uint64_t index_, count_;
};

template <class T> class SharedArray {
  public:
    SharedArray(T *array, uint64_t count) : array_(array), count_(count) {}
    SharedElement<T> operator[](uint64_t index) const {
        return SharedElement<T>(array_, index, count_);
    }
    SharedArray operator+(uint64_t offset) const {
        if (offset > count_)
            emulated_defect("a view from element %llu of a shared array of %llu",
                            (unsigned long long)offset, (unsigned long long)count_);
        return SharedArray(array_ + offset, count_ - offset);
    }
    /* For wide accesses: `width` elements from `index`, checked and recorded as one. */
    T *wide(uint64_t index, uint32_t width, bool write) const {
        EmulatedAccess access = {array_ + index, (uint32_t)sizeof(T) * width, write,
                                 index + width - 1, count_};
        emulated_shared_access(&access);
        return array_ + index;
    }
    EmulatedAccess wide_access(uint64_t index, uint32_t width) const {
        return {array_ + index, (uint32_t)sizeof(T) * width, true, index + width - 1, count_};
    }

  private:
    T *array_;
    uint64_t count_;
};

template <class T> DEVICE SharedArray<T> shared_array(uint32_t offset_bytes, uint32_t count) {
    uint8_t *base = emulated_shared_view(offset_bytes, (uint64_t)count * sizeof(T), alignof(T));
    return SharedArray<T>(reinterpret_cast<T *>(base), count);
}

struct alignas(16) Float4 {
    float x, y, z, w;
};
struct alignas(8) Words2 {
    uint32_t x, y;
};
struct alignas(16) Words4 {
    uint32_t x, y, z, w;
};

DEVICE Float4 load4(const float *p) {
    emulated_global_access(p, sizeof(Float4), alignof(Float4));
    return *reinterpret_cast<const Float4 *>(p);
}
DEVICE void store4(float *p, Float4 value) {
    emulated_global_access(p, sizeof value, alignof(Float4));
    *reinterpret_cast<Float4 *>(p) = value;
}
template <class T> DEVICE T load_fixed(const T *p) {
    emulated_global_access(p, sizeof(T), alignof(T));
    return *p;
}
DEVICE Words2 load_words2(const void *p) {
    emulated_global_access(p, sizeof(Words2), alignof(Words2));
    return *reinterpret_cast<const Words2 *>(p);
}
DEVICE Words4 load_words4(const void *p) {
    emulated_global_access(p, sizeof(Words4), alignof(Words4));
    return *reinterpret_cast<const Words4 *>(p);
}
DEVICE Float4 load4_shared(SharedArray<float> array, uint32_t index) {
    return *reinterpret_cast<const Float4 *>(array.wide(index, 4, false));
}
DEVICE void store4_shared(SharedArray<float> array, uint32_t index, Float4 value) {
    *reinterpret_cast<Float4 *>(array.wide(index, 4, true)) = value;
}
DEVICE Words4 load_words4_shared(SharedArray<uint32_t> array, uint32_t index) {
    return *reinterpret_cast<const Words4 *>(array.wide(index, 4, false));
}
DEVICE Words2 load_words2_shared(SharedArray<uint32_t> array, uint32_t index) {
    return *reinterpret_cast<const Words2 *>(array.wide(index, 2, false));
}

DEVICE void prefetch_line(const void *p) {
    emulated_global_access(p, 1, 1);
}

template <class T> DEVICE void copy_async16(SharedArray<T> array, uint32_t index, const void *p) {
    EmulatedAccess target = array.wide_access(index, 16 / sizeof(T));
    emulated_copy_async(&target, p);
}
DEVICE void copy_async_commit() {
    emulated_copy_async_commit();
}
template <int LATER_GROUPS> DEVICE void copy_async_wait() {
    emulated_copy_async_wait(LATER_GROUPS);
}

DEVICE float half_to_float(uint16_t bits) {
    return f16_to_f32(bits);
}
DEVICE uint16_t float_to_half(float value) {
    return f32_to_f16(value);
}
DEVICE float fused_multiply_add(float a, float b, float c) {
    return fmaf(a, b, c);
}
DEVICE uint32_t byte_under(uint32_t word, uint32_t index, uint32_t upper) {
    return (upper & 0xffffff00u) | (word >> 8 * index & 0xff);
}
DEVICE float exponential(float x) {
    return expf(x);
}
DEVICE void defect(const char *text) {
    emulated_defect("%s", text);
}

#endif
