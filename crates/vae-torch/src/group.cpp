// Groups of processes on libtorch's c10d with Gloo: the store at which they meet, and what they compute together. Every
// function returns nullptr or libtorch's error message, which the caller frees.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <dlfcn.h>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/batch_norm_update_stats.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Logging.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "call.h"

namespace {

using Milliseconds = std::chrono::milliseconds;

struct Store {
    c10::intrusive_ptr<c10d::TCPStore> store;
};

struct Members {
    // For tensors of the CPU, and of GPUs unless there is one for those.
    c10::intrusive_ptr<c10d::Backend> backend;
    c10::intrusive_ptr<c10d::Backend> of_gpus;
    // The time spent in waiting for others and for the network.
    std::atomic<int64_t> nanoseconds{0};

    // Runs what starts an operation, and waits for its end.
    template <typename Start> void complete(Start start) {
        const auto begun = std::chrono::steady_clock::now();
        start()->wait();
        const auto taken = std::chrono::steady_clock::now() - begun;
        nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(taken).count();
    }

    const c10::intrusive_ptr<c10d::Backend> &for_tensor(const at::Tensor &tensor) const {
        return of_gpus && tensor.is_cuda() ? of_gpus : backend;
    }

    void all_reduce(at::Tensor values, c10d::ReduceOp::RedOpType operation) {
        const auto &backend = for_tensor(values);
        std::vector<at::Tensor> tensors{std::move(values)};
        c10d::AllreduceOptions options;
        options.reduceOp = operation;
        complete([&] { return backend->allreduce(tensors, options); });
    }
};

// Shared with nodes of graphs.
using Group = std::shared_ptr<Members>;

// The gradient of a sum over all processes: in each of them the sum of the gradients of all.
struct SumOverAll : torch::autograd::Node {
    Group group;

    explicit SumOverAll(Group group) : group(std::move(group)) {}

    torch::autograd::variable_list
    apply(torch::autograd::variable_list &&gradients) override {
        at::Tensor gradient = gradients[0].detach().clone(at::MemoryFormat::Contiguous);
        group->all_reduce(gradient, c10d::ReduceOp::SUM);
        return {gradient};
    }
};

// The gradient of the rows of all processes: that of this one's own, multiplied by the number of processes.
struct OwnRows : torch::autograd::Node {
    int64_t start, n;
    double times;

    OwnRows(int64_t start, int64_t n, double times) : start(start), n(n), times(times) {}

    torch::autograd::variable_list
    apply(torch::autograd::variable_list &&gradients) override {
        return {gradients[0].narrow(0, start, n) * times};
    }
};

// The gradient of a tensor that all processes have: the mean of what each of them found.
struct MeanOfAll : torch::autograd::Node {
    Group group;

    explicit MeanOfAll(Group group) : group(std::move(group)) {}

    torch::autograd::variable_list
    apply(torch::autograd::variable_list &&gradients) override {
        at::Tensor gradient = gradients[0].detach().clone(at::MemoryFormat::Contiguous);
        group->all_reduce(gradient, c10d::ReduceOp::SUM);
        return {gradient / static_cast<double>(group->backend->getSize())};
    }
};

// Sums of each channel over all processes, a row for each of some values [k, C].
at::Tensor over_all(const Group &group, const at::Tensor &own, bool counts) {
    at::Tensor sums = counts ? own.contiguous() : at::zeros_like(own);
    group->all_reduce(sums, c10d::ReduceOp::SUM);
    return sums;
}

// The gradient of batch norm by the statistics of all processes (the formula of one process, with sums over all).
struct BatchNormOfAll : torch::autograd::Node {
    Group group;
    torch::autograd::SavedVariable input, weight, mean, variance;
    double n, epsilon;
    bool counts;

    torch::autograd::variable_list
    apply(torch::autograd::variable_list &&gradients) override {
        const at::NoGradGuard no_grad;
        const at::Tensor x = input.unpack(), w = weight.unpack();
        const at::Tensor mu = mean.unpack(), var = variance.unpack();
        const at::Tensor dy = gradients[0];
        // With fixed statistics: the sums of dy·x̂ and of dy over this process's rows.
        auto [unused, of_weight, of_bias] = at::native_batch_norm_backward(
            dy, x, w, mu, var, {}, {}, false, epsilon, {false, true, true});
        const at::Tensor sums = over_all(group, at::stack({of_weight, of_bias}), counts) / n;
        if (!counts) {
            return {at::zeros_like(x), of_weight, of_bias};
        }
        const at::Tensor inverse = (var + epsilon).rsqrt();
        // w/σ·(dy − mean dy − x̂·mean(dy·x̂)), with x − μ first: where σ is small beside μ, little of the two would be left.
        const at::Tensor slope = w * inverse;
        const at::Tensor curve = slope * inverse * sums[0];
        const auto of_maps = [](const at::Tensor &values) { return values.view({1, -1, 1, 1}); };
        const at::Tensor centered = x - of_maps(mu);
        at::Tensor dx = at::addcmul(of_maps(-slope * sums[1]), centered, of_maps(-curve));
        dx.addcmul_(dy, of_maps(slope));
        return {dx, of_weight, of_bias};
    }

    void release_variables() override {
        for (auto *saved : {&input, &weight, &mean, &variance}) {
            saved->reset_data();
        }
    }
};

// Makes a node's output of an input part of the graph, if gradients are wanted.
void connect(
    at::Tensor &output, const at::Tensor &input, torch::autograd::Node *made) {
    const std::shared_ptr<torch::autograd::Node> node(made, torch::autograd::deleteNode);
    if (at::GradMode::is_enabled() && input.requires_grad()) {
        node->set_next_edges(torch::autograd::collect_next_edges(input));
        torch::autograd::set_history(output, node);
    }
}

// c10d's own messages on stderr, unless TORCH_CPP_LOG_LEVEL asks for them: errors are returned. And no record of the last
// operations, which is not made for two groups in two threads of a process (and costs time), unless one asks for it.
void quiet() {
    static const bool done = [] {
        setenv("TORCH_CPP_LOG_LEVEL", "ERROR", 0);
        setenv("TORCH_FR_BUFFER_SIZE", "0", 0);
        c10::initLogging();
        return true;
    }();
    (void)done;
}

// Gloo walks over the memory of a tensor as one piece.
std::vector<at::Tensor> dense(const at::Tensor *tensor) {
    TORCH_CHECK(tensor->defined(), "no tensor");
    TORCH_CHECK(tensor->is_contiguous(), "the values of the tensor are no one piece of memory");
    return {tensor->detach()};
}

} // namespace

extern "C" {

char *vae_store_new(
    const char *host, uint16_t port, bool hosts, int64_t timeout_ms, Store **store,
    uint16_t *bound) {
    return guarded([&] {
        quiet();
        c10d::TCPStoreOptions options;
        options.port = port;
        options.isServer = hosts;
        options.waitWorkers = false;
        options.timeout = Milliseconds(timeout_ms);
        auto made = c10::make_intrusive<c10d::TCPStore>(std::string(host), options);
        *bound = made->getPort();
        *store = new Store{std::move(made)};
    });
}

void vae_store_delete(Store *store) {
    delete store;
}

char *vae_store_set(const Store *store, const char *key, const uint8_t *value, size_t n) {
    return guarded([&] {
        store->store->set(std::string(key), std::vector<uint8_t>(value, value + n));
    });
}

// Waits until the key is set. The value is from malloc.
char *vae_store_get(
    const Store *store, const char *key, int64_t timeout_ms, uint8_t **value, size_t *n) {
    return guarded([&] {
        const std::string name(key);
        store->store->wait({name}, Milliseconds(timeout_ms));
        const std::vector<uint8_t> found = store->store->get(name);
        *value = static_cast<uint8_t *>(malloc(found.size() + 1));
        TORCH_CHECK(*value, "out of memory");
        memcpy(*value, found.data(), found.size());
        *n = found.size();
    });
}

char *vae_store_has(const Store *store, const char *key, bool *has) {
    return guarded([&] { *has = store->store->check({std::string(key)}); });
}

char *vae_store_add(const Store *store, const char *key, int64_t amount, int64_t *sum) {
    return guarded([&] { *sum = store->store->add(std::string(key), amount); });
}

// The others reach this process at the address of this interface or, if that is "", at this address of the machine.
char *vae_group_new(
    const Store *store, const char *prefix, int rank, int size, int64_t timeout_ms,
    const char *interface, const char *address, Group **group) {
    return guarded([&] {
        quiet();
        auto options = c10d::ProcessGroupGloo::Options::create(Milliseconds(timeout_ms));
        const std::string name(interface);
        if (!name.empty()) {
            options->devices = {c10d::ProcessGroupGloo::createDeviceForInterface(name)};
        } else {
            const std::string own(address);
            options->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(own)};
        }
        auto own = c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), store->store);
        auto members = std::make_shared<Members>();
        members->backend =
            c10::make_intrusive<c10d::ProcessGroupGloo>(own, rank, size, std::move(options));
        *group = new Group(std::move(members));
    });
}

// From now on tensors of GPUs go by NCCL, which the library of this name brings (nccl/nccl.cpp). libtorch_cuda has to be loaded.
char *vae_group_use_nccl(
    const Group *group, const Store *store, const char *prefix, const char *library,
    int64_t timeout_ms) {
    return guarded([&] {
        using Make = c10d::Backend *(*)(
            c10d::Store *, const char *, int, int, int64_t, char *, size_t);
        void *loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
        TORCH_CHECK(loaded, dlerror());
        const auto make = reinterpret_cast<Make>(dlsym(loaded, "vae_nccl_backend"));
        TORCH_CHECK(make, library, " has no vae_nccl_backend");
        char message[1024] = "";
        const auto &gloo = (*group)->backend;
        c10d::Backend *made = make(
            store->store.get(), prefix, gloo->getRank(), gloo->getSize(), timeout_ms, message,
            sizeof(message));
        TORCH_CHECK(made, message);
        (*group)->of_gpus = c10::intrusive_ptr<c10d::Backend>::reclaim(made);
    });
}

void vae_group_delete(Group *group) {
    delete group;
}

// `operation` is 0 for the sum, 1 for the minimum, 2 for the maximum.
char *vae_group_all_reduce(const Group *group, const at::Tensor *tensor, int operation) {
    return guarded([&] {
        (*group)->all_reduce(
            dense(tensor)[0], operation == 0   ? c10d::ReduceOp::SUM
                              : operation == 1 ? c10d::ReduceOp::MIN
                                               : c10d::ReduceOp::MAX);
    });
}

// The sum over all processes as a new tensor, through which gradients pass.
char *vae_group_sum(const Group *group, const at::Tensor *input, at::Tensor **output) {
    return guarded([&] {
        at::Tensor sum = input->detach().clone(at::MemoryFormat::Contiguous);
        (*group)->all_reduce(sum, c10d::ReduceOp::SUM);
        connect(sum, *input, new SumOverAll(*group));
        *output = new at::Tensor(std::move(sum));
    });
}

// The rows of all processes, `counts[r]` of rank r, through which gradients pass to this one's own.
char *vae_group_rows(
    const Group *group, const at::Tensor *own, const int64_t *counts, at::Tensor **output) {
    return guarded([&] {
        const auto &backend = (*group)->backend;
        const int rank = backend->getRank(), size = backend->getSize();
        int64_t most = 0, start = 0;
        for (int r = 0; r < size; r++) {
            most = std::max(most, counts[r]);
            start += r < rank ? counts[r] : 0;
        }
        TORCH_CHECK(own->dim() > 0 && own->size(0) == counts[rank], "not this rank's number of rows");
        std::vector<int64_t> sizes = own->sizes().vec();
        sizes[0] = most;
        at::Tensor padded = at::zeros(sizes, own->options());
        padded.narrow(0, 0, counts[rank]).copy_(own->detach());
        sizes[0] = most * size;
        at::Tensor gathered = at::empty(sizes, own->options());
        (*group)->complete(
            [&] { return (*group)->for_tensor(padded)->_allgather_base(gathered, padded); });
        std::vector<at::Tensor> parts;
        for (int r = 0; r < size; r++) {
            parts.push_back(gathered.narrow(0, r * most, counts[r]));
        }
        at::Tensor rows = at::cat(parts, 0);
        connect(rows, *own, new OwnRows(start, counts[rank], size));
        *output = new at::Tensor(std::move(rows));
    });
}

// Batch norm of maps by the mean and the variance of all processes, which have `n` values in each channel. A process whose rows do
// not count adds nothing to them.
char *vae_group_batch_norm(
    const Group *group, const at::Tensor *input, const at::Tensor *weight, const at::Tensor *bias,
    double n, double epsilon, bool counts, at::Tensor **output, at::Tensor **mean,
    at::Tensor **variance) {
    return guarded([&] {
        at::Tensor normalized, mu, var;
        {
            const at::NoGradGuard no_grad;
            const at::Tensor own_n = at::full({1}, input->numel() / input->size(1), weight->options());
            const at::Tensor values = input->to(weight->scalar_type());
            auto [own_mean, own_var] = at::batch_norm_update_stats(values, {}, {}, 0.0);
            mu = over_all(*group, own_mean * own_n, counts) / n;
            // The variance around the mean of all, by that around this process's own.
            var = over_all(*group, (own_var + (own_mean - mu).square()) * own_n, counts) / n;
            normalized = std::get<0>(
                at::native_batch_norm(*input, *weight, *bias, mu, var, false, 0.0, epsilon));
        }
        if (at::GradMode::is_enabled() &&
            (input->requires_grad() || weight->requires_grad() || bias->requires_grad())) {
            const std::shared_ptr<BatchNormOfAll> node(
                new BatchNormOfAll(), torch::autograd::deleteNode);
            node->group = *group;
            node->n = n;
            node->epsilon = epsilon;
            node->counts = counts;
            node->input = torch::autograd::SavedVariable(*input, false);
            node->weight = torch::autograd::SavedVariable(*weight, false);
            node->mean = torch::autograd::SavedVariable(mu, false);
            node->variance = torch::autograd::SavedVariable(var, false);
            node->set_next_edges(torch::autograd::collect_next_edges(*input, *weight, *bias));
            torch::autograd::set_history(normalized, node);
        }
        *output = new at::Tensor(std::move(normalized));
        *mean = new at::Tensor(std::move(mu));
        *variance = new at::Tensor(std::move(var));
    });
}

// The same values, whose gradient is the mean of those that all processes find.
char *vae_group_shared(const Group *group, const at::Tensor *input, at::Tensor **output) {
    return guarded([&] {
        at::Tensor shared = input->detach().view_as(*input);
        connect(shared, *input, new MeanOfAll(*group));
        *output = new at::Tensor(std::move(shared));
    });
}

char *vae_group_broadcast(const Group *group, const at::Tensor *tensor, int root) {
    return guarded([&] {
        std::vector<at::Tensor> tensors = dense(tensor);
        c10d::BroadcastOptions options;
        options.rootRank = root;
        options.rootTensor = 0;
        const auto &backend = (*group)->for_tensor(tensors[0]);
        (*group)->complete([&] { return backend->broadcast(tensors, options); });
    });
}

// `output` has room for the tensors of all ranks, one after another.
char *vae_group_all_gather(
    const Group *group, const at::Tensor *output, const at::Tensor *input) {
    return guarded([&] {
        at::Tensor into = dense(output)[0];
        at::Tensor from = dense(input)[0];
        (*group)->complete([&] { return (*group)->for_tensor(from)->_allgather_base(into, from); });
    });
}

char *vae_group_barrier(const Group *group) {
    return guarded(
        [&] { (*group)->complete([&] { return (*group)->backend->barrier(); }); });
}

int64_t vae_group_nanoseconds(const Group *group) {
    return (*group)->nanoseconds;
}

} // extern "C"
