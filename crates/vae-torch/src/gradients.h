// Gradients of gradients: libtorch knows those of its own operations.
#pragma once

#include <cstddef>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/autograd.h>

// The gradients, themselves differentiable, of an output that libtorch computed: one for each input, undefined for those that
// need none.
inline torch::autograd::variable_list gradients_by_libtorch(const at::Tensor &output,
                                                            const torch::autograd::variable_list &inputs,
                                                            const at::Tensor &gradient) {
    torch::autograd::variable_list wanted, all(inputs.size());
    for (const at::Tensor &input : inputs)
        if (input.requires_grad())
            wanted.push_back(input);
    const auto found = torch::autograd::grad({output}, wanted, {gradient}, true, true, true);
    for (std::size_t i = 0, next = 0; i < inputs.size(); ++i)
        if (inputs[i].requires_grad())
            all[i] = found[next++];
    return all;
}
