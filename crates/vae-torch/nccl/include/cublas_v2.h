// What libtorch's headers name of cublas_v2.h, which is not needed otherwise.
#pragma once
#include <cuda_runtime_api.h>
typedef struct cublasContext *cublasHandle_t;
typedef enum { CUBLAS_STATUS_SUCCESS = 0 } cublasStatus_t;
