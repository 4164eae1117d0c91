// What libtorch's headers name of cusolverDn.h, which is not needed otherwise.
#pragma once
typedef struct cusolverDnContext *cusolverDnHandle_t;
