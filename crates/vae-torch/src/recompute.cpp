// A node of the graph that keeps its input and computes again in the backward pass what lies between it and its output
// (Chen et al. 2016, Training deep nets with sublinear memory cost).

#include <memory>
#include <stdexcept>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include "autocast.h"
#include "call.h"

namespace {

namespace autograd = torch::autograd;

// A computation of the caller: returns a new tensor, or nullptr if it failed.
using Call = at::Tensor *(*)(const void *data, const at::Tensor *input);
using Drop = void (*)(void *data);

struct Compute {
    void *data;
    Call call;
    Drop drop;

    Compute(void *data, Call call, Drop drop) : data(data), call(call), drop(drop) {}
    Compute(const Compute &) = delete;
    ~Compute() { drop(data); }

    at::Tensor operator()(const at::Tensor &input) const {
        const std::unique_ptr<at::Tensor> output(call(data, &input));
        if (!output) {
            throw std::runtime_error("a computation failed, as its own message says");
        }
        return *output;
    }
};

// Autocast as it was when this was made, until it is dropped.
class Autocast {
public:
    explicit Autocast(at::DeviceType device)
        : device(device), enabled(at::autocast::is_autocast_enabled(device)),
          dtype(at::autocast::get_autocast_dtype(device)),
          cached(at::autocast::is_autocast_cache_enabled()) {}

    void set() const {
        at::autocast::set_autocast_dtype(device, dtype);
        at::autocast::set_autocast_enabled(device, enabled);
        at::autocast::set_autocast_cache_enabled(cached);
    }

private:
    at::DeviceType device;
    bool enabled;
    at::ScalarType dtype;
    bool cached;
};

struct Recompute : autograd::Node {
    std::shared_ptr<Compute> compute;
    autograd::SavedVariable input;
    Autocast autocast;

    Recompute(std::shared_ptr<Compute> compute, const at::Tensor &input)
        : compute(std::move(compute)), input(input, false), autocast(input.device().type()) {}

    autograd::variable_list apply(autograd::variable_list &&gradients) override {
        TORCH_CHECK(compute, "the graph was freed by an earlier backward pass");
        TORCH_CHECK(
            !at::GradMode::is_enabled(), "gradients of gradients do not pass what is recomputed");
        at::Tensor leaf = input.unpack().detach();
        leaf.set_requires_grad(true);
        const Autocast now(leaf.device().type());
        at::Tensor output;
        {
            const at::AutoGradMode enabled(true);
            autocast.set();
            try {
                output = (*compute)(leaf);
            } catch (...) {
                now.set();
                throw;
            }
            now.set();
        }
        // The gradients of weights are added to what the weights have, and that of the input is passed on.
        autograd::backward({output}, {gradients[0]});
        return {leaf.grad()};
    }

    void release_variables() override {
        input.reset_data();
        compute.reset();
    }
};

} // namespace

extern "C" {

// The output of a computation, which the graph knows as one node. `data` is owned by this function from now on.
char *vae_recomputed(
    const at::Tensor *input, void *data, Call call, Drop drop, at::Tensor **output) {
    return guarded([&] {
        const auto compute = std::make_shared<Compute>(data, call, drop);
        if (!at::GradMode::is_enabled() || !input->requires_grad()) {
            *output = new at::Tensor((*compute)(*input));
            return;
        }
        at::Tensor result;
        {
            const at::NoGradGuard guard;
            result = (*compute)(*input);
        }
        const std::shared_ptr<Recompute> node(
            new Recompute(compute, *input), autograd::deleteNode);
        node->set_next_edges(autograd::collect_next_edges(*input));
        autograd::set_history(result, node);
        *output = new at::Tensor(std::move(result));
    });
}

} // extern "C"
