#include "tensors.h"

#include <cstring>

namespace adamomentum {
namespace {

// The head of DLPack's DLPackExchangeAPI, version 1.
struct Exchange {
  uint32_t major, minor;
  void *previous;
  void *allocate;
  int (*managed_from_object)(void *, void **);
  int (*managed_to_object)(void *, void **);
  int (*tensor_from_object)(void *object, Tensor *out);
  int (*current_stream)(int32_t, int32_t, void **);
};

const Exchange *exchange = nullptr;

constexpr int kMostDimensions = 32;

}  // namespace

bool connect(PyObject *capsule) {
  auto *api = static_cast<const Exchange *>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  if (!api) {
    PyErr_Clear();
    return false;
  }
  if (api->major != 1 || !api->tensor_from_object) return false;
  exchange = api;
  return true;
}

bool connected() { return exchange != nullptr; }

bool read(PyObject *object, Tensor *out) {
  if (exchange->tensor_from_object(object, out) == 0) return true;
  PyErr_Clear();
  return false;
}

int64_t Tensor::numel() const {
  int64_t n = 1;
  for (int d = 0; d < ndim; ++d) n *= shape[d];
  return n;
}

bool is_dense(const Tensor &t) {
  int64_t expected = 1;
  bool contiguous = true;
  for (int d = t.ndim - 1; d >= 0; --d) {
    if (t.shape[d] == 0) return true;
    if (t.shape[d] != 1 && t.strides[d] != expected) contiguous = false;
    expected *= t.shape[d];
  }
  if (contiguous) return true;
  if (t.ndim > kMostDimensions) return false;
  // Some order of the dimensions must make each stride the number of elements of those inside it.
  bool used[kMostDimensions] = {};
  expected = 1;
  for (int k = 0; k < t.ndim; ++k) {
    int next = -1;
    for (int d = 0; d < t.ndim && next < 0; ++d)
      if (!used[d] && (t.shape[d] == 1 || t.strides[d] == expected)) next = d;
    if (next < 0) return false;
    used[next] = true;
    expected *= t.shape[next];
  }
  return true;
}

bool same_layout(const Tensor &a, const Tensor &b) {
  if (a.ndim != b.ndim) return false;
  for (int d = 0; d < a.ndim; ++d) {
    if (a.shape[d] != b.shape[d]) return false;
    if (a.shape[d] > 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

}  // namespace adamomentum
