// What libtorch's headers name of cublasLt.h, which is not needed otherwise.
#pragma once
typedef struct cublasLtContext *cublasLtHandle_t;
