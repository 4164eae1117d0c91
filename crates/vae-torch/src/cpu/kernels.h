// The inner loops of convolutions of f32 maps whose channels are innermost in memory, [N, H, W, C], of what is between them,
// and of what comes after them.
//
// A convolution is a product of rows: an output's row is the sum, over the places of the kernel ("taps"), of an input's row
// times a matrix. No copies of the maps are made; rows outside of a map are a row of zeros. Where vectors run along channels,
// their number has to be a multiple of 16.
//
// The files that include this are compiled for instruction sets that not every processor has. So they must not use inline
// functions of the standard library: the linker would keep one copy for the whole program, perhaps theirs.
#pragma once

#include <cstdint>

namespace vae {

constexpr int64_t MOST_TAPS = 64;
constexpr int64_t MOST_CHANNELS = 4096;

// A grid of outputs that all use the same taps. A strided convolution is one grid; where it is walked backwards (the
// gradient of its input, a transposed convolution) there is one for each place within a stride.
struct Gather {
    const float *input; // [n, height, width, channels]
    int64_t height, width, channels;
    const float *zeros; // as many as channels
    float *output;      // [n, out_height, out_width, out_channels]
    int64_t out_height, out_width, out_channels;
    int64_t n, rows, columns; // outputs of the grid: n * rows * columns
    // Output (y, x) of the grid is at (y * out_stride + out_y, …), and its taps are at (y * stride + tap_y[i], …).
    int64_t stride, out_stride, out_y, out_x;
    int64_t taps;
    const int64_t *tap_y, *tap_x;
    // Packed: for each block of output channels [taps, channels, width of the block]. For `few` [taps, out_channels, channels].
    const float *weight;
    const float *bias; // as many as out_channels, or null
};

// The most output channels of `few`.
constexpr int64_t MOST_FEW = 4;

// sum over places t of a[t, i] * b[t, j], for each tap: the gradient of a convolution's weight.
struct Outer {
    // Of one of the two the rows are those of places (n, y, x), of the other those at (y * stride + tap_y, …).
    const float *places; // [n, rows, columns, place_channels]
    int64_t n, rows, columns, place_channels;
    const float *map; // [n, height, width, map_channels]
    int64_t height, width, map_channels;
    const float *zeros; // as many as map_channels
    int64_t stride;
    int64_t taps;
    const int64_t *tap_y, *tap_x;
    // Whether vectors run along the channels of the map (and the others are multiplied one by one).
    bool along_map;
    float *gradient; // [blocks][taps, channels multiplied one by one, width of the block], initially zeros
};

// A 3x3 convolution of stride 1 with zeros around the maps, by F(2x2, 3x3) of Winograd's minimal filtering (Lavin and Gray
// 2016): 16 products for 2x2 outputs instead of 36. A tile is a square of 2x2 outputs.
struct Winograd {
    const float *input; // [n, height, width, channels]
    int64_t n, height, width, channels;
    const float *zeros;
    float *output; // [n, height, width, out_channels]
    int64_t out_channels;
    const float *weight; // transformed and packed: for each block [16, channels, width of the block]
    const float *bias;
    float *scratch; // of this call: Kernels::winograd_scratch(channels, block)
};

// The gradient of its weight: from the maps and the gradient of the outputs.
struct WinogradOuter {
    const float *input;
    int64_t n, height, width, channels;
    const float *zeros; // as many as the more of both channels
    const float *outputs;
    int64_t out_channels;
    float *gradient; // transformed: for each block [16, channels, width of the block], added to
    float *scratch;  // of this call: Kernels::winograd_scratch(channels, out_channels)
};

// silu(group norm), of maps whose channels are innermost in memory, [n, pixels, channels].
struct NormSilu {
    const float *input;
    int64_t pixels, channels, groups;
    const float *weight, *bias;
    float epsilon;
    float *output;       // forward
    float *mean, *scale; // [n, groups]: mean and 1 / deviation, which the backward pass needs
    const float *gradient;
    float *of_input, *of_weight, *of_bias; // backward; the latter two [n, channels], for each image
};

// log p of rows of values, each 0, 1 or between, for independent Bernoulli distributions given as logits.
struct BernoulliRows {
    const float *logits;  // [rows, values]
    const float *targets; // [items, values]; a row's are those of its number modulo items
    int64_t items, values;
    float *log_prob;       // [rows], forward
    const float *gradient; // [rows], backward
    float *of_logits;      // [rows, values], backward
};

// log p of points under Gaussians with diagonal covariances, each point under each. The last dimensions may be padded: zeros in
// points, means and scales add nothing.
struct Gaussians {
    const float *points;       // [rows, dims], a multiple of 16
    const float *mean, *scale; // [components, dims]; the scale is 1 / deviation
    const float *offset;       // [components], log p at the mean
    int64_t rows, components, dims;
    float *log_prob;       // [rows, components], forward
    const float *gradient; // the same, backward
    float *of_points;      // [rows, dims]
    float *of_mean, *of_log_var; // [components, dims]
};

struct Kernels {
    const char *name; // of the instructions
    // Channels of the widest block of output channels.
    int64_t block;
    // Outputs of the grid from begin to end.
    void (*gather)(const Gather &, int64_t begin, int64_t end);
    // The same for few output channels, with vectors along the input's.
    void (*few)(const Gather &, int64_t begin, int64_t end);
    // Units of work of `outer`: the number, and those from begin to end.
    int64_t (*outer_units)(const Outer &);
    void (*outer)(const Outer &, int64_t begin, int64_t end);
    // Floats of memory that the two need besides, for so many channels of inputs, and of a block or the outputs.
    int64_t (*winograd_scratch)(int64_t channels, int64_t out_channels);
    // Tiles from begin to end.
    void (*winograd)(const Winograd &, int64_t begin, int64_t end);
    void (*winograd_outer)(const WinogradOuter &, int64_t begin, int64_t end);
    // Images from begin to end.
    void (*norm_silu)(const NormSilu &, int64_t begin, int64_t end);
    void (*norm_silu_backward)(const NormSilu &, int64_t begin, int64_t end);
    // Rows from begin to end.
    void (*bernoulli)(const BernoulliRows &, int64_t begin, int64_t end);
    void (*bernoulli_backward)(const BernoulliRows &, int64_t begin, int64_t end);
    // Rows from begin to end; the gradients of points for rows, those of means and log-variances for components.
    void (*gaussians)(const Gaussians &, int64_t begin, int64_t end);
    void (*gaussians_of_points)(const Gaussians &, int64_t begin, int64_t end);
    void (*gaussians_of_components)(const Gaussians &, int64_t begin, int64_t end);
};

extern const Kernels avx512_kernels, avx2_kernels;

} // namespace vae
