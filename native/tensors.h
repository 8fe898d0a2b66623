// Torch tensors as plain memory, read through the DLPack exchange interface that torch.Tensor offers: no torch headers.
#pragma once

#include <Python.h>

#include <cstdint>

namespace adamomentum {

// DLPack's type codes, and of its device types the one that is named here.
enum : uint8_t { kUnsigned = 1, kFloat = 2, kBrain = 4 };
enum : int32_t { kCPU = 1 };

// The DLTensor of the DLPack standard.
struct Tensor {
  void *data;
  int32_t device_type;
  int32_t device_id;
  int32_t ndim;
  uint8_t type_code;
  uint8_t type_bits;
  uint16_t type_lanes;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;

  bool is_type(uint8_t code, uint8_t bits) const { return type_code == code && type_bits == bits && type_lanes == 1; }
  bool on_cpu() const { return device_type == kCPU; }
  bool on_device_of(const Tensor &t) const { return device_type == t.device_type && device_id == t.device_id; }
  void *memory() const { return static_cast<char *>(data) + byte_offset; }
  int64_t numel() const;
};

// Takes the interface from the capsule torch.Tensor.__dlpack_c_exchange_api__; returns whether it is one we know.
bool connect(PyObject *capsule);
bool connected();

// Reads a tensor; false, with no Python error set, if it has no plain memory.
bool read(PyObject *object, Tensor *out);

// Whether elements lie without gaps or overlap, in whatever order of dimensions.
bool is_dense(const Tensor &t);
// Whether two tensors have the same shape, and their elements in the same order in memory.
bool same_layout(const Tensor &a, const Tensor &b);

}  // namespace adamomentum
