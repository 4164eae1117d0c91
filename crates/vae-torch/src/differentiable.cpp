// All that is differentiable here in one translation unit: torch's headers of autograd take most of the time that each compiles.
#include "bernoulli.cpp"
#include "convolution.cpp"
#include "gaussians.cpp"
#include "norm_silu.cpp"
#include "recompute.cpp"
