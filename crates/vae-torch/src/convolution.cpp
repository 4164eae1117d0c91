// Convolutions of maps in f32 on the CPU, by kernels of our own where those are faster than libtorch's.
//
// A convolution goes from maps, the larger ones, to places: `down`. A transposed convolution, and the gradient of the input of a
// convolution, go from places to maps: `up`. The gradient of the weight is of both: `outer`. The weight of all is [channels of
// places, channels of maps, height, width]. What the kernels do not do, or not faster, libtorch does.

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "call.h"
#include "cpu/cpu.h"

namespace {

namespace autograd = torch::autograd;
using at::Tensor;
using vae::ZEROS;

struct Sizes {
    const vae::Kernels *kernels;
    int64_t stride;
    std::array<int64_t, 2> padding;
    std::array<int64_t, 2> kernel;
    int64_t of_places, of_maps; // channels

    int64_t taps() const { return kernel[0] * kernel[1]; }
    bool in_range() const {
        return taps() <= vae::MOST_TAPS && of_places <= vae::MOST_CHANNELS && of_maps <= vae::MOST_CHANNELS;
    }
    // Which of our kernels are faster than libtorch's: measured by examples/kernels.rs.
    bool few() const { return of_places <= vae::MOST_FEW && of_maps % 16 == 0; }
    bool deep() const { return stride > 1 && of_places % 16 == 0 && of_maps % 16 == 0 && of_maps >= 256; }
    bool winograd() const {
        return kernel[0] == 3 && kernel[1] == 3 && stride == 1 && padding[0] == 1 && padding[1] == 1 &&
               of_places % 16 == 0 && of_maps % 16 == 0 && of_places >= 32 && of_maps >= 32;
    }
    // For many channels its sums do not fit into the second cache.
    bool winograd_outer() const { return winograd() && of_places * of_maps <= 128 * 128; }
    bool outer() const {
        return few() || (stride > 1 && taps() <= 9 && of_places % 16 == 0 && of_places >= 128 && of_maps >= 64);
    }
};

Tensor new_maps(const Tensor &like, int64_t channels, int64_t height, int64_t width) {
    return at::empty({like.size(0), channels, height, width}, like.options(), at::MemoryFormat::ChannelsLast);
}

// Matrices [n, inputs, outputs], in blocks of outputs: [n, inputs, width] one after the other.
Tensor packed(const Tensor &matrices, int64_t block) {
    const int64_t outputs = matrices.size(2);
    if (outputs <= block)
        return matrices.contiguous();
    const Tensor blocks = at::empty({matrices.numel()}, matrices.options());
    for (int64_t first = 0; first < outputs; first += block) {
        const Tensor part = matrices.narrow(2, first, std::min(block, outputs - first));
        const int64_t rows = part.size(0) * part.size(1);
        blocks.narrow(0, first * rows, part.numel()).view(part.sizes()).copy_(part);
    }
    return blocks;
}

// The reverse.
Tensor unpacked(const Tensor &blocks, int64_t n, int64_t inputs, int64_t outputs, int64_t block) {
    if (outputs <= block)
        return blocks.view({n, inputs, outputs});
    const Tensor matrices = at::empty({n, inputs, outputs}, blocks.options());
    for (int64_t first = 0; first < outputs; first += block) {
        const int64_t width = std::min(block, outputs - first);
        matrices.narrow(2, first, width).copy_(blocks.narrow(0, first * n * inputs, n * inputs * width).view({n, inputs, width}));
    }
    return matrices;
}

// [9, …] to [16, …]: G w G' of 3x3 places, as one matrix.
const Tensor &winograd_matrix() {
    static const Tensor matrix = [] {
        const double g[4][3] = {{1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
        std::vector<double> values;
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j)
                for (int y = 0; y < 3; ++y)
                    for (int x = 0; x < 3; ++x)
                        values.push_back(g[i][y] * g[j][x]);
        return at::tensor(values, at::kFloat).view({16, 9});
    }();
    return matrix;
}

// A convolution of maps by matrices [9, channels, outputs].
Tensor winograd(const Tensor &maps, const Tensor &matrices, const Tensor &bias, const Sizes &sizes) {
    const int64_t channels = maps.size(1), outputs = matrices.size(2), height = maps.size(2), width = maps.size(3);
    const Tensor input = vae::channels_last(maps), output = new_maps(maps, outputs, height, width);
    const Tensor transformed = at::mm(winograd_matrix(), matrices.reshape({9, -1})).view({16, channels, outputs});
    const Tensor weight = packed(transformed, sizes.kernels->block);
    const int64_t n_tiles = maps.size(0) * ((height + 1) / 2) * ((width + 1) / 2);
    const int64_t needed = sizes.kernels->winograd_scratch(channels, std::min(outputs, sizes.kernels->block));
    const int64_t parts = vae::n_parts(n_tiles, 48);
    const Tensor scratch = at::empty({parts, needed}, maps.options());
    vae::Winograd of{};
    of.input = input.const_data_ptr<float>();
    of.n = maps.size(0), of.height = height, of.width = width, of.channels = channels;
    of.zeros = ZEROS;
    of.output = output.data_ptr<float>();
    of.out_channels = outputs;
    of.weight = weight.const_data_ptr<float>();
    of.bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
    float *memory = scratch.data_ptr<float>();
    vae::each(parts, [&](int64_t i) {
        vae::Winograd own_part = of;
        own_part.scratch = memory + i * needed;
        sizes.kernels->winograd(own_part, n_tiles * i / parts, n_tiles * (i + 1) / parts);
    });
    return output;
}

// [9, channels of maps, channels of places].
Tensor winograd_outer(const Tensor &maps, const Tensor &places, const Sizes &sizes) {
    const int64_t channels = maps.size(1), outputs = places.size(1), height = maps.size(2), width = maps.size(3);
    const Tensor input = vae::channels_last(maps), gradient = vae::channels_last(places);
    const int64_t n_tiles = maps.size(0) * ((height + 1) / 2) * ((width + 1) / 2);
    const int64_t needed = sizes.kernels->winograd_scratch(channels, outputs);
    const int64_t parts = vae::n_parts(n_tiles, 48);
    const Tensor scratch = at::empty({parts, needed}, maps.options());
    const Tensor sums = at::zeros({parts, 16 * channels * outputs}, maps.options());
    vae::WinogradOuter of{};
    of.input = input.const_data_ptr<float>();
    of.n = maps.size(0), of.height = height, of.width = width, of.channels = channels;
    of.zeros = ZEROS;
    of.outputs = gradient.const_data_ptr<float>();
    of.out_channels = outputs;
    float *memory = scratch.data_ptr<float>(), *to = sums.data_ptr<float>();
    vae::each(parts, [&](int64_t i) {
        vae::WinogradOuter own_part = of;
        own_part.scratch = memory + i * needed;
        own_part.gradient = to + i * 16 * channels * outputs;
        sizes.kernels->winograd_outer(own_part, n_tiles * i / parts, n_tiles * (i + 1) / parts);
    });
    const Tensor sum = parts == 1 ? sums.view({-1}) : sums.sum(0);
    const Tensor transformed = unpacked(sum, 16, channels, outputs, sizes.kernels->block);
    return at::mm(winograd_matrix().t(), transformed.view({16, -1})).view({9, channels, outputs});
}

// [taps, channels of maps, channels of places].
Tensor matrices(const Tensor &weight) {
    return weight.permute({2, 3, 1, 0}).reshape({-1, weight.size(1), weight.size(0)});
}

// Where the taps of a place are, relative to it.
struct Taps {
    std::vector<int64_t> y, x;

    explicit Taps(const Sizes &sizes) {
        for (int64_t i = 0; i < sizes.kernel[0]; ++i)
            for (int64_t j = 0; j < sizes.kernel[1]; ++j) {
                y.push_back(i - sizes.padding[0]);
                x.push_back(j - sizes.padding[1]);
            }
    }
};

void gather(vae::Gather of, const Tensor &weight, const Sizes &sizes) {
    const Tensor blocks = packed(weight, sizes.kernels->block);
    of.weight = blocks.const_data_ptr<float>();
    vae::split(of.n * of.rows * of.columns, 48, [&](int64_t begin, int64_t end) { sizes.kernels->gather(of, begin, end); });
}

Tensor down(const Tensor &maps, const Tensor &weight, const Tensor &bias, const Sizes &sizes) {
    if (sizes.winograd())
        return winograd(maps, matrices(weight), bias, sizes);
    if (!sizes.few() && !sizes.deep()) {
        const auto optional = bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;
        return at::conv2d(maps, weight, optional, {sizes.stride, sizes.stride}, sizes.padding);
    }
    const auto outputs = [&](int dim) {
        return (maps.size(dim + 2) + 2 * sizes.padding[dim] - sizes.kernel[dim]) / sizes.stride + 1;
    };
    const Tensor input = vae::channels_last(maps), output = new_maps(maps, weight.size(0), outputs(0), outputs(1));
    const Taps taps(sizes);
    vae::Gather of{};
    of.input = input.const_data_ptr<float>();
    of.height = maps.size(2), of.width = maps.size(3), of.channels = maps.size(1);
    of.zeros = ZEROS;
    of.output = output.data_ptr<float>();
    of.out_height = outputs(0), of.out_width = outputs(1), of.out_channels = output.size(1);
    of.n = maps.size(0), of.rows = outputs(0), of.columns = outputs(1);
    of.stride = sizes.stride, of.out_stride = 1;
    of.taps = sizes.taps(), of.tap_y = taps.y.data(), of.tap_x = taps.x.data();
    of.bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
    if (sizes.few()) {
        const Tensor rows = weight.permute({2, 3, 0, 1}).contiguous();
        of.weight = rows.const_data_ptr<float>();
        vae::split(of.n * of.rows * of.columns, 48, [&](int64_t begin, int64_t end) { sizes.kernels->few(of, begin, end); });
    } else {
        gather(of, matrices(weight), sizes);
    }
    return output;
}

// To maps of `size` (H, W).
Tensor up(const Tensor &places, const Tensor &weight, const Tensor &bias, const Sizes &sizes, std::array<int64_t, 2> size) {
    if (sizes.winograd()) {
        // A convolution by the same kernel, turned around.
        return winograd(places, weight.flip({2, 3}).permute({2, 3, 0, 1}).reshape({9, weight.size(0), weight.size(1)}), bias,
                        sizes);
    }
    if (!sizes.deep()) {
        const auto optional = bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;
        std::array<int64_t, 2> more;
        for (int dim = 0; dim < 2; ++dim)
            more[dim] = size[dim] - ((places.size(dim + 2) - 1) * sizes.stride - 2 * sizes.padding[dim] + sizes.kernel[dim]);
        return at::conv_transpose2d(places, weight, optional, {sizes.stride, sizes.stride}, sizes.padding, more);
    }
    const Tensor input = vae::channels_last(places), output = new_maps(places, weight.size(1), size[0], size[1]);
    const Tensor of_taps = weight.permute({2, 3, 0, 1}).reshape({-1, weight.size(0), weight.size(1)});
    vae::Gather of{};
    of.input = input.const_data_ptr<float>();
    of.height = places.size(2), of.width = places.size(3), of.channels = places.size(1);
    of.zeros = ZEROS;
    of.output = output.data_ptr<float>();
    of.out_height = size[0], of.out_width = size[1], of.out_channels = output.size(1);
    of.n = places.size(0);
    of.stride = 1, of.out_stride = sizes.stride;
    of.bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
    // The taps along one side whose places meet a pixel at `offset` within a stride, and how far from it those are.
    const auto meeting = [&](int dim, int64_t offset) {
        std::vector<std::pair<int64_t, int64_t>> found;
        for (int64_t tap = 0; tap < sizes.kernel[dim]; ++tap) {
            const int64_t from = offset + sizes.padding[dim] - tap;
            if (from % sizes.stride == 0)
                found.emplace_back(tap, from / sizes.stride);
        }
        return found;
    };
    for (of.out_y = 0; of.out_y < std::min(sizes.stride, size[0]); ++of.out_y)
        for (of.out_x = 0; of.out_x < std::min(sizes.stride, size[1]); ++of.out_x) {
            std::vector<int64_t> y, x, indices;
            for (const auto &[tap_y, place_y] : meeting(0, of.out_y))
                for (const auto &[tap_x, place_x] : meeting(1, of.out_x)) {
                    y.push_back(place_y);
                    x.push_back(place_x);
                    indices.push_back(tap_y * sizes.kernel[1] + tap_x);
                }
            of.rows = (size[0] - of.out_y + sizes.stride - 1) / sizes.stride;
            of.columns = (size[1] - of.out_x + sizes.stride - 1) / sizes.stride;
            of.taps = static_cast<int64_t>(indices.size()), of.tap_y = y.data(), of.tap_x = x.data();
            gather(of, of_taps.index_select(0, at::tensor(indices, at::kLong)), sizes);
        }
    return output;
}

// The gradient of the weight.
Tensor outer(const Tensor &maps, const Tensor &places, const Tensor &weight, const Sizes &sizes) {
    const auto like_weight = [&](const Tensor &matrices) { // [taps, channels of maps, channels of places]
        return matrices.view({sizes.kernel[0], sizes.kernel[1], sizes.of_maps, sizes.of_places})
            .permute({3, 2, 0, 1})
            .contiguous();
    };
    if (sizes.winograd_outer())
        return like_weight(winograd_outer(maps, places, sizes));
    if (!sizes.outer()) {
        const auto [none, gradient, no_bias] = at::convolution_backward(
            places, maps, weight, std::nullopt, {sizes.stride, sizes.stride}, sizes.padding, {1, 1}, false, {0, 0}, 1,
            {false, true, false});
        return gradient;
    }
    const Tensor from = vae::channels_last(maps), to = vae::channels_last(places);
    const bool along_map = sizes.of_places % 16 != 0;
    const int64_t scalars = along_map ? sizes.of_places : sizes.of_maps;
    const int64_t vectors = along_map ? sizes.of_maps : sizes.of_places;
    const Tensor sums = at::zeros({sizes.taps() * scalars * vectors}, maps.options());
    const Taps taps(sizes);
    vae::Outer of{};
    of.places = to.const_data_ptr<float>();
    of.n = places.size(0), of.rows = places.size(2), of.columns = places.size(3), of.place_channels = sizes.of_places;
    of.map = from.const_data_ptr<float>();
    of.height = maps.size(2), of.width = maps.size(3), of.map_channels = sizes.of_maps;
    of.zeros = ZEROS;
    of.stride = sizes.stride;
    of.taps = sizes.taps(), of.tap_y = taps.y.data(), of.tap_x = taps.x.data();
    of.along_map = along_map;
    of.gradient = sums.data_ptr<float>();
    vae::split(sizes.kernels->outer_units(of), 1, [&](int64_t begin, int64_t end) { sizes.kernels->outer(of, begin, end); });
    const Tensor matrices = unpacked(sums, sizes.taps(), scalars, vectors, sizes.kernels->block);
    return like_weight(along_map ? matrices.transpose(1, 2).contiguous() : matrices);
}

struct Convolution : autograd::Function<Convolution> {
    // Transposed where the output has a size of its own.
    static Tensor forward(autograd::AutogradContext *context, const Tensor &input, const Tensor &weight,
                          const std::optional<Tensor> &bias, const Sizes &sizes,
                          std::optional<std::array<int64_t, 2>> size) {
        context->save_for_backward({input, weight});
        context->saved_data["kernels"] = reinterpret_cast<int64_t>(sizes.kernels);
        context->saved_data["stride"] = sizes.stride;
        context->saved_data["padding"] = std::vector<int64_t>(sizes.padding.begin(), sizes.padding.end());
        context->saved_data["transposed"] = size.has_value();
        context->saved_data["has_bias"] = bias.has_value();
        const Tensor offset = bias.value_or(Tensor());
        return size ? up(input, weight, offset, sizes, *size) : down(input, weight, offset, sizes);
    }

    static autograd::variable_list backward(autograd::AutogradContext *context, autograd::variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const Tensor &input = saved[0], &weight = saved[1], &gradient = gradients[0];
        const auto padding = context->saved_data["padding"].toIntVector();
        const bool transposed = context->saved_data["transposed"].toBool();
        const Sizes sizes{reinterpret_cast<const vae::Kernels *>(context->saved_data["kernels"].toInt()),
                          context->saved_data["stride"].toInt(),
                          {padding[0], padding[1]},
                          {weight.size(2), weight.size(3)},
                          weight.size(0),
                          weight.size(1)};
        const bool of_input = context->needs_input_grad(0), of_weight = context->needs_input_grad(1);
        const bool of_bias = context->saved_data["has_bias"].toBool() && context->needs_input_grad(2);
        if (at::GradMode::is_enabled()) {
            // Gradients of gradients: libtorch knows those of its own.
            std::array<int64_t, 2> more{0, 0};
            if (transposed)
                for (int dim = 0; dim < 2; ++dim)
                    more[dim] = gradient.size(dim + 2) - ((input.size(dim + 2) - 1) * sizes.stride -
                                                          2 * sizes.padding[dim] + sizes.kernel[dim]);
            const int64_t n_bias = transposed ? weight.size(1) : weight.size(0);
            const auto [a, b, c] = at::convolution_backward(
                gradient, input, weight, of_bias ? at::OptionalIntArrayRef(n_bias) : std::nullopt,
                {sizes.stride, sizes.stride}, sizes.padding, {1, 1}, transposed, more, 1, {of_input, of_weight, of_bias});
            return {a, b, c, Tensor(), Tensor()};
        }
        Tensor a, b, c;
        if (of_input)
            a = transposed ? down(gradient, weight, Tensor(), sizes)
                           : up(gradient, weight, Tensor(), sizes, {input.size(2), input.size(3)});
        if (of_weight)
            b = transposed ? outer(gradient, input, weight, sizes) : outer(input, gradient, weight, sizes);
        if (of_bias)
            c = gradient.sum(at::IntArrayRef{0, 2, 3});
        return {a, b, c, Tensor(), Tensor()};
    }
};

// Whether a kernel of ours does a part of the work. oneDNN has only a slow one for the gradient of the bias of a transposed
// convolution.
bool takes(const Tensor &input, const Tensor &weight, const std::optional<Tensor> &bias, const Sizes &sizes, bool transposed) {
    const bool possible = sizes.kernels && sizes.in_range() && input.dim() == 4 && input.numel() > 0 && input.size(2) > 1 &&
                          input.size(3) > 1;
    const bool pays = sizes.winograd() || sizes.deep() || sizes.outer() || (transposed && bias && sizes.stride > 1);
    return possible && pays && vae::takes(input) && vae::takes(weight) &&
           (!bias || (vae::takes(*bias) && bias->is_contiguous()));
}

} // namespace

extern "C" {

// A convolution, transposed where the output has a size of its own. `bias` may be null.
char *vae_convolution(const Tensor *input, const Tensor *weight, const Tensor *bias, int64_t stride, const int64_t *padding,
                      const int64_t *output_padding, Tensor **output) {
    return guarded([&] {
        TORCH_CHECK(weight->dim() == 4, "a convolution's weight has four dimensions, not ", weight->dim());
        const Sizes sizes{vae::own_kernels(), stride, {padding[0], padding[1]}, {weight->size(2), weight->size(3)},
                          weight->size(0),    weight->size(1)};
        const auto optional = bias ? std::optional<Tensor>(*bias) : std::nullopt;
        const bool transposed = output_padding != nullptr;
        const bool fits = input->dim() == 4 && input->size(1) == weight->size(transposed ? 0 : 1) && stride > 0 &&
                          (!bias || (bias->dim() == 1 && bias->size(0) == weight->size(transposed ? 1 : 0)));
        if (!fits || !takes(*input, *weight, optional, sizes, transposed)) {
            const std::array<int64_t, 2> strides{stride, stride};
            *output = new Tensor(
                transposed ? at::conv_transpose2d(*input, *weight, optional, strides, sizes.padding,
                                                  at::IntArrayRef(output_padding, 2))
                           : at::conv2d(*input, *weight, optional, strides, sizes.padding));
            return;
        }
        std::optional<std::array<int64_t, 2>> size;
        if (transposed) {
            size.emplace();
            for (int dim = 0; dim < 2; ++dim)
                (*size)[dim] = (input->size(dim + 2) - 1) * stride - 2 * padding[dim] + sizes.kernel[dim] + output_padding[dim];
        }
        *output = new Tensor(Convolution::apply(*input, *weight, optional, sizes, size));
    });
}

} // extern "C"
