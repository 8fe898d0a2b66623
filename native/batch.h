// The tensors of one parameter group at one step, and what is done with them in a single parallel region.
//
// Everything is read afresh from the Python objects at every step, which costs about as much as it would to find out
// whether pointers kept from the last step still hold. So there is nothing that could be stale.
#pragma once

#include <Python.h>

#include <string>
#include <vector>

#include "kernels.h"
#include "tensors.h"

namespace adamomentum {

// Where a step count lies: a float64, or a float32 of older states, which counts no further than 2^24.
struct StepCount {
  void *memory;
  bool wide;
  double next() const { return wide ? *static_cast<double *>(memory) + 1.0 : *static_cast<float *>(memory) + 1.0f; }
  void set(double count) const {
    if (wide) *static_cast<double *>(memory) = count;
    else *static_cast<float *>(memory) = static_cast<float>(count);
  }
};

class Batch {
 public:
  // plain_types: the classes of parameters and gradients that are what they seem; no subclass is taken.
  // rounding: of parameters in half precision.
  // device_type: DLPack's, of all tensors but the step counts, which are on the CPU.
  // for_tables: for tables() in place of run(), whose kernel has no float64.
  Batch(PyObject *plain_types, Rounding rounding, int32_t device_type, bool for_tables);
  ~Batch();
  Batch(const Batch &) = delete;
  Batch &operator=(const Batch &) = delete;

  // Takes every parameter that has a gradient, complete state and memory the kernels can work on, and appends the
  // other parameters that have one to `rest`, with it. Returns false with a Python error set if the interpreter failed.
  // `position` is where in `state` the entry of the first parameter is expected, and becomes where the next would be.
  // `grads` is the list of the parameters' gradients; null to take those that they have.
  bool gather(PyObject *params, PyObject *state, bool amsgrad, Py_ssize_t *position, PyObject *rest, PyObject *grads);

  // Takes one parameter; returns whether it could. `state` is the dict of its moments, `first` the position of the first
  // element in the parameter that this one is a part of.
  bool add(PyObject *param, PyObject *grad, PyObject *state, bool amsgrad, int64_t first = 0);

  // For square_sum() and square_sums() alone: takes the gradients that it can read, and appends the others to `rest`.
  // `grads` as for gather().
  bool gather_gradients(PyObject *params, PyObject *rest, PyObject *grads);

  // Has run() and fold() multiply the gradient of each parameter by a factor of its own.
  void scale(const std::vector<double> &factors);

  // The distinct numbers of the step that each parameter takes next. Numbers for run() come in this order.
  const std::vector<double> &next_steps();

  // The update of all parameters, counting their steps.
  void run(const std::vector<Numbers> &numbers, int workers);

  // What a kernel on another device needs to find its tensors: those alike in device and types, without empty ones.
  struct Table {
    int32_t device;
    Param param;
    States states;
    Rounding rounding;
    int64_t tensors, chunks;     // chunks of as many elements as tables() was told, of one tensor each
    std::vector<int64_t> cells;  // the entry of each tensor, then the first chunk of each
  };
  // After next_steps(), to which the rows in the tables refer. What an entry holds, in which order, is said by name, as
  // ENTRY of torch/scalars.py does; throws std::invalid_argument for a name that is not known.
  std::vector<Table> tables(int64_t chunk, const std::vector<std::string> &entry) const;

  // Counts the step of all parameters, which run() does by itself.
  void count();

  // Adds weight times the gradient to the first moment of all parameters, of which it is the number `passes` says.
  void fold(double weight, const std::vector<uint32_t> &passes, int workers);

  // The sum of the squares of all gradients, in an order that does not depend on the number of workers.
  double square_sum(int workers);

  // The same of each gradient.
  std::vector<double> square_sums(int workers);

  // Whether a gradient among them is in float64.
  bool has_float64() const { return has_float64_; }
  PyObject *params() const { return params_; }  // borrowed
  template <class Use> void for_all_gradients(Use use) const {
    for (const Item &item : items_) use(item.grad);
  }

 private:
  struct Item {
    PyObject *grad;  // borrowed from kept_
    Span whole;
    StepCount step;
    int32_t device;
    Param param;
    States states;
    Rounding rounding;
    uint32_t at_step;  // which of next_steps()
    double factor = 1.0;
  };
  // What a worker takes at a time: at most kChunk elements, of one tensor or of several small ones.
  struct Chunk {
    uint32_t first, last;  // items [first, last)
    int64_t begin, end;    // elements of item `first` when it is the only one
  };

  bool read_item(PyObject *param, PyObject *grad, PyObject *state, bool amsgrad, Item *item);
  void keep(PyObject *object);
  void divide();
  bool overlap() const;  // whether parameters share memory
  template <class Run> void for_all_chunks(int workers, Run run);
  template <class Run> void for_all_spans(int workers, Run run);  // run(number of the item, item, span of it)

  std::vector<Item> items_;
  std::vector<Chunk> chunks_;
  std::vector<double> steps_;
  std::vector<PyObject *> kept_;
  PyObject *plain_types_;
  Rounding rounding_;
  int32_t device_type_;
  bool for_tables_;
  PyObject *params_;
  int64_t numel_ = 0;
  bool has_float64_ = false;
};

// Elements below which a second thread does not pay.
extern int64_t serial_below;

}  // namespace adamomentum
