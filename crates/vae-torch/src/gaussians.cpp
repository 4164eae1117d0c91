// log p of points under Gaussians with diagonal covariances, on the CPU, where each point is compared with each Gaussian, in one
// pass in each direction.

#include <algorithm>
#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "call.h"
#include "cpu/cpu.h"
#include "gradients.h"

namespace {

namespace autograd = torch::autograd;
using at::Tensor;

constexpr double LN_2PI = 1.8378770664093453;

// By libtorch. The terms without points are summed separately, which halves the work if points are compared with many Gaussians.
Tensor composed(const Tensor &points, const Tensor &mean, const Tensor &log_var) {
    const auto sum = [](const Tensor &values) { return values.sum(-1, false, at::kFloat); };
    const Tensor squares = points.sub(mean).mul(log_var.mul(-0.5).exp()).square();
    return sum(squares).add(sum(log_var.add(LN_2PI))).mul(-0.5);
}

// Rows as the kernels take them.
struct Padded {
    Tensor points, mean, scale, offset;

    Padded(const Tensor &all_points, const Tensor &all_means, const Tensor &log_var) {
        const int64_t dims = log_var.size(1), more = (16 - dims % 16) % 16;
        const auto padded = [more](const Tensor &rows) { return at::constant_pad_nd(rows, {0, more}).contiguous(); };
        points = padded(all_points.squeeze(1)), mean = padded(all_means);
        scale = padded(log_var.mul(-0.5).exp());
        offset = log_var.add(LN_2PI).sum(1).mul(-0.5);
    }

    vae::Gaussians pointers() const {
        vae::Gaussians of{};
        of.points = points.const_data_ptr<float>();
        of.mean = mean.const_data_ptr<float>(), of.scale = scale.const_data_ptr<float>();
        of.offset = offset.const_data_ptr<float>();
        of.rows = points.size(0), of.components = mean.size(0), of.dims = points.size(1);
        return of;
    }
};

// Values that are worth a thread.
constexpr int64_t LEAST_VALUES = 1 << 15;

// Calls `part` for parts of n things, each of which is compared with so many others.
template <typename F> void split_pairs(int64_t n, int64_t others, const vae::Gaussians &of, F part) {
    vae::split(n, std::max<int64_t>(LEAST_VALUES / (others * of.dims), 1), part);
}

struct NormalLogProb : autograd::Function<NormalLogProb> {
    static Tensor forward(autograd::AutogradContext *context, const Tensor &points, const Tensor &mean, const Tensor &log_var,
                          const vae::Kernels *kernels) {
        const Padded padded(points, mean, log_var);
        vae::Gaussians of = padded.pointers();
        const Tensor log_prob = at::empty({of.rows, of.components}, points.options());
        of.log_prob = log_prob.data_ptr<float>();
        split_pairs(of.rows, of.components, of,
                    [&](int64_t begin, int64_t end) { kernels->gaussians(of, begin, end); });
        context->save_for_backward({points, mean, log_var});
        context->saved_data["kernels"] = reinterpret_cast<int64_t>(kernels);
        return log_prob;
    }

    static autograd::variable_list backward(autograd::AutogradContext *context, autograd::variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const Tensor &points = saved[0], &mean = saved[1], &log_var = saved[2];
        if (at::GradMode::is_enabled()) {
            auto all = gradients_by_libtorch(composed(points, mean, log_var), saved, gradients[0]);
            all.resize(4);
            return all;
        }
        const auto *const kernels = reinterpret_cast<const vae::Kernels *>(context->saved_data["kernels"].toInt());
        const Padded padded(points, mean, log_var);
        const Tensor gradient = gradients[0].contiguous();
        vae::Gaussians of = padded.pointers();
        of.gradient = gradient.const_data_ptr<float>();
        const auto dims = [&](const Tensor &rows) { return rows.narrow(1, 0, log_var.size(1)); };
        autograd::variable_list all(4);
        if (context->needs_input_grad(0)) {
            const Tensor of_points = at::empty_like(padded.points);
            of.of_points = of_points.data_ptr<float>();
            split_pairs(of.rows, of.components, of,
                        [&](int64_t begin, int64_t end) { kernels->gaussians_of_points(of, begin, end); });
            all[0] = dims(of_points).unsqueeze(1);
        }
        if (context->needs_input_grad(1) || context->needs_input_grad(2)) {
            const Tensor of_mean = at::empty_like(padded.mean), of_log_var = at::empty_like(padded.mean);
            of.of_mean = of_mean.data_ptr<float>(), of.of_log_var = of_log_var.data_ptr<float>();
            split_pairs(of.components, of.rows, of,
                        [&](int64_t begin, int64_t end) { kernels->gaussians_of_components(of, begin, end); });
            all[1] = dims(of_mean), all[2] = dims(of_log_var);
        }
        return all;
    }
};

bool is_each_with_each(const Tensor &points, const Tensor &mean, const Tensor &log_var) {
    return points.dim() == 3 && points.size(1) == 1 && mean.dim() == 2 && mean.sizes() == log_var.sizes() &&
           points.size(2) == mean.size(1) && points.numel() > 0 && mean.numel() > 0 && vae::takes(points) &&
           vae::takes(mean) && vae::takes(log_var);
}

} // namespace

extern "C" {

char *vae_normal_log_prob(const Tensor *points, const Tensor *mean, const Tensor *log_var, Tensor **log_prob) {
    return guarded([&] {
        const vae::Kernels *const kernels = vae::own_kernels();
        *log_prob = new Tensor(kernels && is_each_with_each(*points, *mean, *log_var)
                                   ? NormalLogProb::apply(*points, *mean, *log_var, kernels)
                                   : composed(*points, *mean, *log_var));
    });
}

} // extern "C"
