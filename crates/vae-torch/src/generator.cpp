// Random numbers from a generator that the caller owns. Every function returns nullptr or libtorch's error message,
// which the caller frees.

#include <cstdint>
#include <mutex>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_standard_gamma.h>
#include <ATen/ops/multinomial.h>

#include "call.h"

extern "C" {

// A generator in the state of the device's global one after at::manual_seed. The one of a GPU comes from its
// backend's library, which this one is not linked to and which registers itself when it is loaded.
char *vae_generator_new(
    int device_type, int device_index, uint64_t seed, at::Generator **generator) {
    return guarded([&] {
        const auto type = static_cast<at::DeviceType>(device_type);
        at::Generator fresh =
            type == at::kCPU
                ? at::detail::createCPUGenerator(seed)
                : at::globalContext().getAcceleratorHooksInterface(type).getNewGenerator(
                      static_cast<c10::DeviceIndex>(device_index));
        {
            std::lock_guard<std::mutex> lock(fresh.mutex());
            fresh.set_current_seed(seed);
        }
        *generator = new at::Generator(std::move(fresh));
    });
}

void vae_generator_delete(at::Generator *generator) {
    delete generator;
}

// Tensors are filled by the functions that at::randn, at::rand and at::randint call on the tensors they allocate.

char *vae_normal(const at::Tensor *values, const at::Generator *generator) {
    return guarded([&] { values->normal_(0.0, 1.0, *generator); });
}

char *vae_uniform(
    const at::Tensor *values, double low, double high, const at::Generator *generator) {
    return guarded([&] { values->uniform_(low, high, *generator); });
}

char *vae_exponential(const at::Tensor *values, const at::Generator *generator) {
    return guarded([&] { values->exponential_(1.0, *generator); });
}

char *vae_randint(const at::Tensor *values, int64_t high, const at::Generator *generator) {
    return guarded([&] { values->random_(0, high, *generator); });
}

char *vae_multinomial(
    const at::Tensor *weights, int64_t n, const at::Generator *generator, at::Tensor *drawn) {
    return guarded([&] {
        const bool replacement = true;
        *drawn = at::multinomial(*weights, n, replacement, *generator);
    });
}

char *vae_standard_gamma(
    const at::Tensor *concentration, const at::Generator *generator, at::Tensor *drawn) {
    return guarded([&] { *drawn = at::_standard_gamma(*concentration, *generator); });
}

} // extern "C"
