// Groups of processes on NVIDIA's NCCL, for tensors on GPUs: a library of its own, libvae_nccl.so, which `cargo xtask nccl` makes and
// group.cpp loads after libtorch_cuda. So the program is linked without CUDA, and needs neither CUDA nor NCCL on other machines.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

// A backend that the caller owns; or null, with a message of at most `n` bytes.
extern "C" __attribute__((visibility("default"))) c10d::Backend *vae_nccl_backend(
    c10d::Store *store, const char *prefix, int rank, int size, int64_t timeout_ms, char *message,
    size_t n) {
    try {
        auto shared = c10::intrusive_ptr<c10d::Store>::reclaim_copy(store);
        auto own = c10::make_intrusive<c10d::PrefixStore>(std::string(prefix) + "/nccl", shared);
        auto options = c10d::ProcessGroupNCCL::Options::create();
        options->timeout = std::chrono::milliseconds(timeout_ms);
        auto backend =
            c10::make_intrusive<c10d::ProcessGroupNCCL>(own, rank, size, std::move(options));
        return backend.release();
    } catch (const std::exception &error) {
        snprintf(message, n, "%s", error.what());
        return nullptr;
    }
}
