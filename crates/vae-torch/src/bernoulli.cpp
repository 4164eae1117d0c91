// log p of values under independent Bernoulli distributions, on the CPU in one pass over the logits in each direction.

#include <algorithm>
#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "call.h"
#include "cpu/cpu.h"

namespace {

namespace autograd = torch::autograd;
using at::Tensor;

// Logits [K, B, C, H, W] and targets [B, C, H, W] as rows of values in the same order. Nothing is copied where the channels of
// the logits are innermost or outermost in memory.
struct Rows {
    Tensor logits, targets;
    bool channels_last;

    Rows(const Tensor &all_logits, const Tensor &all_targets)
        : logits(all_logits), targets(all_targets), channels_last(false) {
        if (!logits.is_contiguous()) {
            const Tensor moved = logits.permute({0, 1, 3, 4, 2});
            channels_last = moved.is_contiguous();
            logits = channels_last ? moved : logits.contiguous();
            targets = channels_last ? targets.permute({0, 2, 3, 1}) : targets;
        }
        targets = targets.contiguous();
    }

    vae::BernoulliRows pointers() const {
        vae::BernoulliRows of{};
        of.logits = logits.const_data_ptr<float>(), of.targets = targets.const_data_ptr<float>();
        of.items = targets.size(0), of.values = targets.numel() / targets.size(0);
        return of;
    }
};

// Values that are worth a thread.
constexpr int64_t GRAIN = 1 << 14;

template <typename F> void split(const vae::BernoulliRows &of, int64_t rows, F part) {
    vae::split(rows, std::max<int64_t>(GRAIN / of.values, 1), part);
}

struct LogProb : autograd::Function<LogProb> {
    static Tensor forward(autograd::AutogradContext *context, const Tensor &logits, const Tensor &targets,
                          const vae::Kernels *kernels) {
        const Rows rows(logits, targets);
        const Tensor log_prob = at::empty({logits.size(0), logits.size(1)}, logits.options());
        vae::BernoulliRows of = rows.pointers();
        of.log_prob = log_prob.data_ptr<float>();
        split(of, log_prob.numel(), [&](int64_t begin, int64_t end) { kernels->bernoulli(of, begin, end); });
        context->save_for_backward({logits, targets});
        context->saved_data["kernels"] = reinterpret_cast<int64_t>(kernels);
        return log_prob;
    }

    static autograd::variable_list backward(autograd::AutogradContext *context, autograd::variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const Tensor &logits = saved[0], &targets = saved[1];
        if (at::GradMode::is_enabled()) {
            // Gradients of gradients: libtorch knows those of its own.
            const Tensor along = gradients[0].unsqueeze(2).unsqueeze(3).unsqueeze(4);
            return {along.mul(targets.sub(logits.sigmoid())), Tensor(), Tensor()};
        }
        const auto *const kernels = reinterpret_cast<const vae::Kernels *>(context->saved_data["kernels"].toInt());
        const Rows rows(logits, targets);
        const Tensor gradient = gradients[0].contiguous(), of_logits = at::empty_like(rows.logits);
        vae::BernoulliRows of = rows.pointers();
        of.gradient = gradient.const_data_ptr<float>();
        of.of_logits = of_logits.data_ptr<float>();
        split(of, gradient.numel(), [&](int64_t begin, int64_t end) { kernels->bernoulli_backward(of, begin, end); });
        return {rows.channels_last ? of_logits.permute({0, 1, 4, 2, 3}) : of_logits, Tensor(), Tensor()};
    }
};

bool pays(const Tensor &logits, const Tensor &targets) {
    return logits.dim() == 5 && logits.numel() > 0 && targets.sizes() == logits.sizes().slice(1) && vae::takes(logits) &&
           vae::takes(targets) && !targets.requires_grad();
}

} // namespace

extern "C" {

char *vae_bernoulli_log_prob(const Tensor *logits, const Tensor *targets, Tensor **log_prob) {
    return guarded([&] {
        const vae::Kernels *const kernels = vae::own_kernels();
        if (kernels && pays(*logits, *targets)) {
            *log_prob = new Tensor(LogProb::apply(*logits, *targets, kernels));
            return;
        }
        const Tensor cross_entropy = at::binary_cross_entropy_with_logits(*logits, targets->expand_as(*logits), {}, {},
                                                                          at::Reduction::None);
        *log_prob = new Tensor(cross_entropy.sum({2, 3, 4}, false, at::kFloat).neg());
    });
}

} // extern "C"
