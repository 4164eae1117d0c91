// silu(group norm) of maps, on the CPU in one pass over each image.

#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "call.h"
#include "cpu/cpu.h"
#include "gradients.h"

namespace {

namespace autograd = torch::autograd;
using at::Tensor;

vae::NormSilu sizes(const Tensor &input, const Tensor &weight, const Tensor &bias, int64_t groups, double epsilon) {
    vae::NormSilu of{};
    of.input = input.const_data_ptr<float>();
    of.pixels = input.size(2) * input.size(3), of.channels = input.size(1), of.groups = groups;
    of.weight = weight.const_data_ptr<float>(), of.bias = bias.const_data_ptr<float>();
    of.epsilon = static_cast<float>(epsilon);
    return of;
}

struct NormSilu : autograd::Function<NormSilu> {
    static Tensor forward(autograd::AutogradContext *context, const Tensor &maps, const Tensor &weight, const Tensor &bias,
                          int64_t groups, double epsilon, const vae::Kernels *kernels) {
        const Tensor input = vae::channels_last(maps), output = at::empty_like(input);
        const Tensor mean = at::empty({maps.size(0), groups}, maps.options()), scale = at::empty_like(mean);
        vae::NormSilu of = sizes(input, weight, bias, groups, epsilon);
        of.output = output.data_ptr<float>();
        of.mean = mean.data_ptr<float>(), of.scale = scale.data_ptr<float>();
        vae::split(maps.size(0), 1, [&](int64_t begin, int64_t end) { kernels->norm_silu(of, begin, end); });
        context->save_for_backward({maps, weight, bias, mean, scale});
        context->saved_data["groups"] = groups;
        context->saved_data["epsilon"] = epsilon;
        context->saved_data["kernels"] = reinterpret_cast<int64_t>(kernels);
        return output;
    }

    static autograd::variable_list backward(autograd::AutogradContext *context, autograd::variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const Tensor &maps = saved[0], &weight = saved[1], &bias = saved[2], &mean = saved[3], &scale = saved[4];
        const int64_t groups = context->saved_data["groups"].toInt();
        const double epsilon = context->saved_data["epsilon"].toDouble();
        if (at::GradMode::is_enabled()) {
            const Tensor output = at::silu(at::group_norm(maps, groups, weight, bias, epsilon));
            auto all = gradients_by_libtorch(output, {maps, weight, bias}, gradients[0]);
            all.resize(6);
            return all;
        }
        const auto *const kernels = reinterpret_cast<const vae::Kernels *>(context->saved_data["kernels"].toInt());
        const Tensor input = vae::channels_last(maps), gradient = vae::channels_last(gradients[0]);
        const Tensor of_input = at::empty_like(input);
        const Tensor of_weight = at::empty({input.size(0), input.size(1)}, input.options());
        const Tensor of_bias = at::empty_like(of_weight);
        vae::NormSilu of = sizes(input, weight, bias, groups, epsilon);
        of.mean = mean.data_ptr<float>(), of.scale = scale.data_ptr<float>();
        of.gradient = gradient.const_data_ptr<float>();
        of.of_input = of_input.data_ptr<float>();
        of.of_weight = of_weight.data_ptr<float>(), of.of_bias = of_bias.data_ptr<float>();
        vae::split(input.size(0), 1,
                   [&](int64_t begin, int64_t end) { kernels->norm_silu_backward(of, begin, end); });
        return {of_input, of_weight.sum(0), of_bias.sum(0), Tensor(), Tensor(), Tensor()};
    }
};

// More pixels would be too much for one thread, and images fewer than threads would leave some without work.
constexpr int64_t MOST_PIXELS = 1 << 14;

bool pays(const Tensor &maps, const Tensor &weight, const Tensor &bias) {
    return maps.dim() == 4 && maps.numel() > 0 && maps.size(1) % 16 == 0 &&
           maps.size(1) <= vae::MOST_CHANNELS && maps.size(2) * maps.size(3) <= MOST_PIXELS &&
           vae::n_parts(maps.size(0), 1) == vae::n_parts(INT64_MAX, 1) && vae::takes(maps) && vae::takes(weight) &&
           vae::takes(bias) && weight.is_contiguous() && bias.is_contiguous();
}

} // namespace

extern "C" {

char *vae_group_norm_silu(const Tensor *maps, const Tensor *weight, const Tensor *bias, int64_t groups, double epsilon,
                          Tensor **output) {
    return guarded([&] {
        const bool fits = groups > 0 && maps->dim() == 4 && maps->size(1) % groups == 0 &&
                          weight->sizes() == at::IntArrayRef{maps->size(1)} && bias->sizes() == weight->sizes();
        const vae::Kernels *const kernels = vae::own_kernels();
        *output = new Tensor(
            kernels && fits && pays(*maps, *weight, *bias)
                ? NormSilu::apply(*maps, *weight, *bias, groups, epsilon, kernels)
                : at::silu(at::group_norm(*maps, groups, *weight, *bias, epsilon)));
    });
}

} // extern "C"
