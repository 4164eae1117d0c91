// Which kernels there are, and the threads that they run on.

#include "cpu.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include <dlfcn.h>

#include <ATen/Parallel.h>

#include "../autocast.h"

// As in torch/csrc/jit/frontend/tracer.h, whose inclusion would double the compile time of this file.
namespace torch::jit::tracer {
struct TracingState;
TORCH_API const std::shared_ptr<TracingState> &getTracingState();
} // namespace torch::jit::tracer

namespace {

const vae::Kernels *avx2() {
#ifdef VAE_CPU_KERNELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &vae::avx2_kernels;
#endif
    return nullptr;
}

const vae::Kernels *best() {
#ifdef VAE_CPU_KERNELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return &vae::avx512_kernels;
#endif
    return avx2();
}

std::atomic<const vae::Kernels *> chosen{best()};

// The pool of threads that libtorch's own kernels use. A second one beside it would be in its way.
using Parallel = void (*)(void (*)(void *), void *, unsigned, unsigned);
const Parallel PARALLEL = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));

} // namespace

namespace vae {

const Kernels *own_kernels() {
    const bool possible = !at::autocast::is_autocast_enabled(at::kCPU) && !torch::jit::tracer::getTracingState();
    return possible ? chosen.load(std::memory_order_relaxed) : nullptr;
}

bool takes(const at::Tensor &tensor) {
    return tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided;
}

at::Tensor channels_last(const at::Tensor &maps) { return maps.contiguous(at::MemoryFormat::ChannelsLast); }

int64_t n_parts(int64_t n, int64_t grain) {
    return std::clamp<int64_t>(n / grain, 1, PARALLEL ? at::get_num_threads() : 1);
}

void each(int64_t n, const std::function<void(int64_t)> &part) {
    std::atomic<int64_t> next{0};
    const std::function<void()> parts = [&] {
        for (int64_t i = next++; i < n; i = next++)
            part(i);
    };
    if (n <= 1 || !PARALLEL) {
        parts();
        return;
    }
    const auto call = [](void *data) { (*static_cast<const std::function<void()> *>(data))(); };
    PARALLEL(call, const_cast<void *>(static_cast<const void *>(&parts)), static_cast<unsigned>(n), 0);
}

void split(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)> &part) {
    const int64_t parts = n_parts(n, grain);
    each(parts, [&](int64_t i) { part(n * i / parts, n * (i + 1) / parts); });
}

} // namespace vae

extern "C" {

// None, the best, or those for AVX2; false if this processor does not have those.
bool vae_use_kernels(int which) {
    const vae::Kernels *const wanted = which == 0 ? nullptr : which == 1 ? best() : avx2();
    chosen.store(wanted, std::memory_order_relaxed);
    return which == 0 || wanted;
}

// Null, or the instructions that the kernels in use need.
const char *vae_kernels() {
    const vae::Kernels *const found = chosen.load(std::memory_order_relaxed);
    return found ? found->name : nullptr;
}

} // extern "C"
