// What the callers of the kernels share.
#pragma once

#include <functional>

#include <ATen/core/Tensor.h>

#include "kernels.h"

namespace vae {

alignas(64) inline const float ZEROS[MOST_CHANNELS] = {};

// The kernels that are in use: none on other processors, where they are switched off, under autocast and in a trace.
const Kernels *own_kernels();

// Whether a tensor is one of those that the kernels are for.
bool takes(const at::Tensor &tensor);

at::Tensor channels_last(const at::Tensor &maps);

// As many parts as there are threads, with at least `grain` of n things in each.
int64_t n_parts(int64_t n, int64_t grain);

// Calls `part(i)` for all i below n, each on a thread of its own if there are as many.
void each(int64_t n, const std::function<void(int64_t)> &part);

// Calls `part(begin, end)` for each of the parts of n things.
void split(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)> &part);

} // namespace vae
