// Calls into libtorch that tch does not bind: in-place operations on lists of tensors, and autocast. Every function
// returns nullptr or libtorch's error message, which the caller frees.
//
// The fused CPU kernels assume that all lists are as long as the first. They walk over the memory of each tensor by
// the number of values of the first list's tensor, whatever its kind, strides and size. So everything is checked
// here first (`checked`); only the lengths of lists are taken on trust from the caller.

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_clamp_max.h>
#include <ATen/ops/_foreach_clamp_min.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <c10/util/Exception.h>

#include "autocast.h"
#include "call.h"

// As in ATen/Version.h.
namespace at {
TORCH_API std::string show_config();
} // namespace at

namespace {

using TensorPtr = const at::Tensor *;

std::vector<at::Tensor> list(const TensorPtr *tensors, size_t n) {
    std::vector<at::Tensor> list;
    list.reserve(n);
    for (size_t i = 0; i < n; i++) {
        list.push_back(*tensors[i]);
    }
    return list;
}

// For operations that check sizes, kinds and strides themselves.
void check_defined(const std::vector<at::Tensor> &tensors) {
    for (size_t i = 0; i < tensors.size(); i++) {
        TORCH_CHECK(tensors[i].defined(), "tensors[", i, "] is no tensor");
    }
}

// Tensors that a kernel may walk over in place: dense (no two values at one address, no gaps), all f32 or all f64,
// on one device.
std::vector<at::Tensor> checked(const char *name, const TensorPtr *tensors, size_t n) {
    std::vector<at::Tensor> checked = list(tensors, n);
    for (size_t i = 0; i < n; i++) {
        const at::Tensor &tensor = checked[i], &first = checked[0];
        TORCH_CHECK(tensor.defined(), name, "[", i, "] is no tensor");
        TORCH_CHECK(
            tensor.layout() == at::kStrided && tensor.is_non_overlapping_and_dense(), name, "[", i,
            "] of sizes ", tensor.sizes(), " and strides ", tensor.strides(),
            " is not dense in memory");
        TORCH_CHECK(
            tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble, name, "[", i,
            "] is ", tensor.scalar_type(), ", Float or Double is needed");
        TORCH_CHECK(
            tensor.scalar_type() == first.scalar_type() && tensor.device() == first.device(), name,
            "[", i, "] is ", tensor.scalar_type(), " on ", tensor.device(), ", the first one ",
            first.scalar_type(), " on ", first.device());
    }
    return checked;
}

// Checks that tensors have the size, kind and device of the variables.
void check_alike(
    const char *name, const at::Tensor &tensor, const at::Tensor &value, size_t i) {
    TORCH_CHECK(
        tensor.sizes() == value.sizes() && tensor.scalar_type() == value.scalar_type() &&
            tensor.device() == value.device(),
        name, "[", i, "] is ", tensor.scalar_type(), " ", tensor.sizes(), " on ", tensor.device(),
        ", its variable ", value.scalar_type(), " ", value.sizes(), " on ", value.device());
}

// An optimizer's moments of the variables, in their memory order.
std::vector<at::Tensor> moments_of(
    const std::vector<at::Tensor> &values, const char *name, const TensorPtr *moments, size_t n) {
    std::vector<at::Tensor> list = checked(name, moments, n);
    for (size_t i = 0; i < n; i++) {
        check_alike(name, list[i], values[i], i);
        TORCH_CHECK(
            list[i].strides() == values[i].strides(), name, "[", i, "] has strides ",
            list[i].strides(), ", its variable ", values[i].strides());
    }
    return list;
}

// The gradients, in the memory order of their variables: the fused CPU kernels ignore strides, and those for CUDA
// refuse other ones.
std::vector<at::Tensor> in_order_of(
    const std::vector<at::Tensor> &values, const TensorPtr *gradients, size_t n) {
    std::vector<at::Tensor> ordered = list(gradients, n);
    for (size_t i = 0; i < n; i++) {
        TORCH_CHECK(ordered[i].defined(), "gradients[", i, "] is no tensor");
        check_alike("gradients", ordered[i], values[i], i);
    }
    for (size_t i = 0; i < n; i++) {
        if (ordered[i].strides() != values[i].strides()) {
            at::Tensor copy = at::empty_like(values[i]);
            copy.copy_(ordered[i]);
            ordered[i] = std::move(copy);
        }
    }
    return ordered;
}

} // namespace

extern "C" {

// libtorch's description of itself as text, which the caller frees.
char *vae_show_config() {
    try {
        return strdup(at::show_config().c_str());
    } catch (...) {
        return nullptr;
    }
}

char *vae_forget_gradients(const TensorPtr *values, size_t n) {
    return guarded([&] {
        for (size_t i = 0; i < n; i++) {
            TORCH_CHECK(values[i]->defined(), "values[", i, "] is no tensor");
            values[i]->mutable_grad().reset();
        }
    });
}

// A step of Adam or, if decoupled, AdamW.
char *vae_fused_adam(
    const TensorPtr *values, const TensorPtr *gradients, const TensorPtr *means,
    const TensorPtr *mean_squares, size_t n, const TensorPtr *n_steps, double learning_rate, double beta1,
    double beta2, double weight_decay, double epsilon, bool decoupled) {
    return guarded([&] {
        std::vector<at::Tensor> value_list = checked("values", values, n);
        std::vector<at::Tensor> gradient_list = in_order_of(value_list, gradients, n);
        std::vector<at::Tensor> mean_list = moments_of(value_list, "means", means, n);
        std::vector<at::Tensor> mean_square_list =
            moments_of(value_list, "mean squares", mean_squares, n);
        std::vector<at::Tensor> step_list = list(n_steps, n);
        for (size_t i = 0; i < n; i++) {
            const at::Tensor &steps = step_list[i];
            TORCH_CHECK(steps.defined(), "steps[", i, "] is no tensor");
            TORCH_CHECK(
                steps.numel() == 1 && steps.scalar_type() == at::kFloat &&
                    steps.device() == value_list[i].device(),
                "steps[", i, "] is ", steps.scalar_type(), " ", steps.sizes(), " on ",
                steps.device(), ", a single Float on the device of its variable is needed");
        }
        at::_foreach_add_(step_list, 1);
        const bool amsgrad = false, maximize = false;
        if (decoupled) {
            at::_fused_adamw_(
                value_list, gradient_list, mean_list, mean_square_list, {}, step_list,
                learning_rate, beta1, beta2, weight_decay, epsilon, amsgrad, maximize);
        } else {
            at::_fused_adam_(
                value_list, gradient_list, mean_list, mean_square_list, {}, step_list,
                learning_rate, beta1, beta2, weight_decay, epsilon, amsgrad, maximize);
        }
    });
}

// momenta may be null, which means no momentum.
char *vae_fused_sgd(
    const TensorPtr *values, const TensorPtr *gradients, const TensorPtr *momenta, size_t n,
    double learning_rate, double momentum, double weight_decay, bool nesterov) {
    return guarded([&] {
        std::vector<at::Tensor> value_list = checked("values", values, n);
        std::vector<at::Tensor> gradient_list = in_order_of(value_list, gradients, n);
        TORCH_CHECK(
            momentum == 0.0 || momenta != nullptr, "a momentum of ", momentum, " without momenta");
        std::vector<at::Tensor> momentum_list =
            moments_of(value_list, "momenta", momenta, momenta == nullptr ? 0 : n);
        const double dampening = 0.0;
        // Without dampening, momenta that start at zero need no special first step.
        const bool maximize = false, is_first_step = false;
        at::_fused_sgd_(
            value_list, gradient_list, momentum_list, weight_decay, momentum, learning_rate,
            dampening, nesterov, maximize, is_first_step);
    });
}

// The Euclidean norm of all values of all tensors, a scalar tensor on their device.
char *vae_norm(const TensorPtr *tensors, size_t n, at::Tensor *norm) {
    return guarded([&] {
        std::vector<at::Tensor> tensor_list = list(tensors, n);
        check_defined(tensor_list);
        *norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(tensor_list, 2)), 2);
    });
}

char *vae_scale(const TensorPtr *tensors, size_t n, TensorPtr factor) {
    return guarded([&] {
        std::vector<at::Tensor> tensor_list = list(tensors, n);
        check_defined(tensor_list);
        TORCH_CHECK(factor->defined() && factor->numel() == 1, "the factor is not a single number");
        at::_foreach_mul_(tensor_list, *factor);
    });
}

char *vae_clamp(const TensorPtr *tensors, size_t n, double bound) {
    return guarded([&] {
        std::vector<at::Tensor> tensor_list = list(tensors, n);
        check_defined(tensor_list);
        at::_foreach_clamp_min_(tensor_list, -bound);
        at::_foreach_clamp_max_(tensor_list, bound);
    });
}

// tensors ← tensors + weight · (ends − tensors)
char *vae_lerp(const TensorPtr *tensors, const TensorPtr *ends, size_t n, double weight) {
    return guarded([&] {
        std::vector<at::Tensor> tensor_list = checked("tensors", tensors, n);
        at::_foreach_lerp_(tensor_list, in_order_of(tensor_list, ends, n), weight);
    });
}

// Returns the state before, for vae_autocast_leave.
//
// libtorch's cache of half-precision copies of the weights is disabled. It is shared by all threads, and leaving
// autocast on one clears it for all. Whether two uses of a weight share a copy decides whether their gradients are
// added in half precision, so that with the cache the results of one thread would depend on another's.
// half precision, so that the cache would make a thread's numbers depend on what another one does.
char *vae_autocast_enter(
    int device_type, int scalar_type, bool *previously_enabled, int *previous_scalar_type,
    bool *previously_cached) {
    return guarded([&] {
        const auto device = static_cast<at::DeviceType>(device_type);
        *previously_enabled = at::autocast::is_autocast_enabled(device);
        *previous_scalar_type = static_cast<int>(at::autocast::get_autocast_dtype(device));
        *previously_cached = at::autocast::is_autocast_cache_enabled();
        at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(scalar_type));
        at::autocast::set_autocast_enabled(device, true);
        at::autocast::set_autocast_cache_enabled(false);
        at::autocast::increment_nesting();
    });
}

char *vae_autocast_leave(
    int device_type, bool previously_enabled, int previous_scalar_type, bool previously_cached) {
    return guarded([&] {
        const auto device = static_cast<at::DeviceType>(device_type);
        if (at::autocast::decrement_nesting() == 0) {
            at::autocast::clear_cache();
        }
        at::autocast::set_autocast_cache_enabled(previously_cached);
        at::autocast::set_autocast_enabled(device, previously_enabled);
        at::autocast::set_autocast_dtype(
            device, static_cast<at::ScalarType>(previous_scalar_type));
    });
}

} // extern "C"
