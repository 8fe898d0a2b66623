#include "batch.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <stdexcept>

#include "threads.h"

namespace adamomentum {
namespace {

constexpr int64_t kChunk = 32768;  // a multiple of kBlock
constexpr int64_t kPerWorker = 65536;

// Python strings that are looked up for every parameter; a test compares the keys with those of torch/state.py.
struct Names {
  PyObject *grad = PyUnicode_InternFromString("grad");
  PyObject *step = PyUnicode_InternFromString("step");
  PyObject *is_neg = PyUnicode_InternFromString("is_neg");
  PyObject *m = PyUnicode_InternFromString("exp_avg");
  PyObject *v = PyUnicode_InternFromString("exp_avg_sq");
  PyObject *v_max = PyUnicode_InternFromString("max_exp_avg_sq");
  PyObject *m_scale = PyUnicode_InternFromString("exp_avg_scale");
  PyObject *v_scale = PyUnicode_InternFromString("exp_avg_sq_scale");
  PyObject *lost = PyUnicode_InternFromString("compensation");
  PyObject *master = PyUnicode_InternFromString("master");
};

const Names &names() {
  static const Names *const names = new Names;  // lives as long as the interpreter
  return *names;
}

bool param_type(const Tensor &t, Param *out) {
  if (t.is_type(kFloat, 32)) *out = kFloat32;
  else if (t.is_type(kFloat, 64)) *out = kFloat64;
  else if (t.is_type(kFloat, 16)) *out = kFloat16;
  else if (t.is_type(kBrain, 16)) *out = kBFloat16;
  else return false;
  return true;
}

bool state_type(const Tensor &t, State *out) {
  if (t.is_type(kFloat, 32)) *out = kState32;
  else if (t.is_type(kFloat, 64)) *out = kState64;
  else if (t.is_type(kBrain, 16)) *out = kStateBF16;
  else if (t.is_type(kUnsigned, 8)) *out = kCodes;
  else return false;
  return true;
}

bool is_plain(PyObject *object, PyObject *types) {
  auto *type = reinterpret_cast<PyObject *>(Py_TYPE(object));
  for (Py_ssize_t i = 0, n = PyTuple_Size(types); i < n; ++i)
    if (PyTuple_GetItem(types, i) == type) return true;
  return false;
}

// Whether a gradient is stored with the opposite sign, which DLPack does not tell. Such tensors are imaginary parts of
// lazily conjugated ones, whose strides are even: dense they are with one element alone.
bool is_negated(PyObject *grad) {
  PyObject *answer = PyObject_CallMethodObjArgs(grad, names().is_neg, nullptr);
  const bool negated = answer != Py_False;
  Py_XDECREF(answer);
  PyErr_Clear();
  return negated;
}

// The gradient of the parameter `i`, a new reference: that of the list, or without one that which it has.
PyObject *gradient_of(PyObject *param, PyObject *grads, Py_ssize_t i) {
  if (!grads) return PyObject_GetAttr(param, names().grad);
  PyObject *grad = PyList_GetItem(grads, i);
  Py_XINCREF(grad);
  return grad;
}

// A tensor of a state dict, borrowed.
bool read_entry(PyObject *state, PyObject *key, PyObject **object, Tensor *out) {
  *object = PyDict_GetItemWithError(state, key);
  if (!*object) {
    PyErr_Clear();
    return false;
  }
  return read(*object, out);
}

bool is_scale(const Tensor &t, int64_t blocks) {
  return t.is_type(kUnsigned, 8) && t.ndim == 1 && t.shape[0] == blocks && (t.strides[0] == 1 || blocks < 2);
}

Span piece_of(const Span &whole, Param p, States s, Rounding r, int64_t begin, int64_t end) {
  Span piece = whole;
  const int64_t in_p = begin * size_of(p), in_v = begin * size_of(s.v);
  piece.p = static_cast<char *>(whole.p) + in_p;
  piece.g = static_cast<const char *>(whole.g) + in_p;
  piece.m = static_cast<char *>(whole.m) + begin * size_of(s.m);
  piece.v = static_cast<char *>(whole.v) + in_v;
  if (whole.v_max) piece.v_max = static_cast<char *>(whole.v_max) + in_v;
  if (whole.m_scale) piece.m_scale = whole.m_scale + begin / kBlock;
  if (whole.v_scale) piece.v_scale = whole.v_scale + begin / kBlock;
  if (whole.kept) piece.kept = static_cast<char *>(whole.kept) + (r == kMaster ? 4 * begin : in_p);
  piece.position = whole.position + static_cast<uint32_t>(begin);
  piece.n = end - begin;
  return piece;
}

int64_t address(const void *memory) { return static_cast<int64_t>(reinterpret_cast<intptr_t>(memory)); }

}  // namespace

int64_t serial_below = int64_t{1} << 17;

Batch::Batch(PyObject *plain_types, Rounding rounding, int32_t device_type, bool for_tables)
    : plain_types_(plain_types),
      rounding_(rounding),
      device_type_(device_type),
      for_tables_(for_tables),
      params_(PyList_New(0)) {
  Py_INCREF(plain_types_);
}

Batch::~Batch() {
  for (PyObject *object : kept_) Py_DECREF(object);
  Py_XDECREF(params_);
  Py_DECREF(plain_types_);
}

void Batch::keep(PyObject *object) {
  Py_INCREF(object);
  kept_.push_back(object);
}

bool Batch::gather(PyObject *params, PyObject *state, bool amsgrad, Py_ssize_t *position, PyObject *rest,
                   PyObject *grads) {
  if (!params_) return false;
  const Py_ssize_t n = PyList_Size(params);
  if (n < 0) return false;
  items_.reserve(static_cast<size_t>(n));
  kept_.reserve(static_cast<size_t>(n) * 5);
  for (Py_ssize_t i = 0; i < PyList_Size(params); ++i) {  // an attribute could run Python code that changes the list
    PyObject *param = PyList_GetItem(params, i);
    Py_INCREF(param);
    PyObject *grad = gradient_of(param, grads, i);
    bool failed = !grad, taken = grad == Py_None;
    if (!failed && !taken) {
      // State is nearly always in the order of the parameters: the next entry is found without hashing, which for a
      // tensor is a call into Python.
      PyObject *key = nullptr, *entry = nullptr;
      Py_ssize_t next = *position;
      if (PyDict_Next(state, &next, &key, &entry) && key == param) {
        *position = next;
      } else {
        entry = PyDict_GetItemWithError(state, param);
        failed = !entry && PyErr_Occurred();
      }
      taken = entry && add(param, grad, entry, amsgrad);
      failed = failed || PyErr_Occurred();
      if (!failed && !taken) {
        PyObject *row = PyTuple_Pack(2, param, grad);
        failed = !row || PyList_Append(rest, row) < 0;
        Py_XDECREF(row);
      }
    }
    Py_XDECREF(grad);
    Py_DECREF(param);
    if (failed) return false;
  }
  return true;
}

bool Batch::add(PyObject *param, PyObject *grad, PyObject *state, bool amsgrad, int64_t first) {
  Item item{};
  item.whole.position = static_cast<uint32_t>(first);  // cut off, as the random bits wrap around
  if (!params_ || !PyDict_Check(state) || !read_item(param, grad, state, amsgrad, &item)) return false;
  if (PyList_Append(params_, param) < 0) return false;
  keep(item.grad = grad);
  keep(state);
  numel_ += item.whole.n;
  items_.push_back(item);
  return true;
}

bool Batch::read_item(PyObject *param, PyObject *grad, PyObject *state, bool amsgrad, Item *item) {
  Tensor p, g, t;
  PyObject *object;
  const auto shaped = [&](PyObject *key) {  // an entry of the state with the parameter's device and layout, into t
    if (!read_entry(state, key, &object, &t) || !t.on_device_of(p) || !same_layout(p, t)) return false;
    keep(object);
    return true;
  };
  const auto scale = [&](PyObject *key, int64_t blocks) {
    if (!read_entry(state, key, &object, &t) || !t.on_device_of(p) || !is_scale(t, blocks)) return false;
    keep(object);
    return true;
  };
  if (!is_plain(param, plain_types_) || !is_plain(grad, plain_types_)) return false;
  if (!read(param, &p) || p.device_type != device_type_ || !param_type(p, &item->param) || !is_dense(p)) return false;
  if (for_tables_ && item->param == kFloat64) return false;
  if (!read(grad, &g) || !g.on_device_of(p) || !same_layout(p, g)) return false;
  Param grad_type;
  if (!param_type(g, &grad_type) || grad_type != item->param) return false;
  if (g.numel() == 1 && is_negated(grad)) return false;

  if (!read_entry(state, names().step, &object, &t) || !t.on_cpu() || t.numel() != 1) return false;
  item->step.wide = t.is_type(kFloat, 64);
  if (!item->step.wide && !t.is_type(kFloat, 32)) return false;
  keep(object);
  item->step.memory = t.memory();

  States &states = item->states;
  if (!shaped(names().m) || !state_type(t, &states.m)) return false;
  item->whole.m = t.memory();
  if (!shaped(names().v) || !state_type(t, &states.v)) return false;
  item->whole.v = t.memory();
  item->rounding = item->param == kFloat16 || item->param == kBFloat16 ? rounding_ : kNearest;
  if (!is_supported(item->param, states, item->rounding)) return false;
  if (amsgrad) {
    State kind;
    if (states.m != states.v || (states.v != kState32 && states.v != kState64)) return false;
    if (!shaped(names().v_max) || !state_type(t, &kind) || kind != states.v) return false;
    item->whole.v_max = t.memory();
  }
  if (item->rounding == kKahan || item->rounding == kMaster) {
    Param kept;
    if (!shaped(item->rounding == kKahan ? names().lost : names().master) || !param_type(t, &kept)) return false;
    if (kept != (item->rounding == kKahan ? item->param : kFloat32)) return false;
    item->whole.kept = t.memory();
  }
  item->whole.n = p.numel();
  const int64_t blocks = (item->whole.n + kBlock - 1) / kBlock;
  if (states.m == kCodes) {
    if (!scale(names().m_scale, blocks)) return false;
    item->whole.m_scale = static_cast<uint8_t *>(t.memory());
  }
  if (states.v == kCodes) {
    if (!scale(names().v_scale, blocks)) return false;
    item->whole.v_scale = static_cast<uint8_t *>(t.memory());
  }
  item->device = p.device_id;
  item->whole.p = p.memory();
  item->whole.g = g.memory();
  return true;
}

bool Batch::gather_gradients(PyObject *params, PyObject *rest, PyObject *grads) {
  if (!params_) return false;
  for (Py_ssize_t i = 0; i < PyList_Size(params); ++i) {
    PyObject *param = PyList_GetItem(params, i);
    Py_INCREF(param);
    PyObject *grad = gradient_of(param, grads, i);
    Py_DECREF(param);
    if (!grad) return false;
    Tensor g;
    Item item{};
    const bool taken =
        is_plain(grad, plain_types_) && read(grad, &g) && g.on_cpu() && is_dense(g) && param_type(g, &item.param);
    bool failed = false;
    if (taken) {
      keep(item.grad = grad);
      item.whole.g = g.memory();
      item.whole.n = g.numel();
      has_float64_ = has_float64_ || item.param == kFloat64;
      numel_ += item.whole.n;
      items_.push_back(item);
    } else if (grad != Py_None) {
      failed = PyList_Append(rest, grad) < 0;
    }
    Py_DECREF(grad);
    if (failed) return false;
  }
  return true;
}

const std::vector<double> &Batch::next_steps() {
  steps_.clear();
  for (Item &item : items_) {
    const double next = item.step.next();
    // Parameters nearly always share their step.
    if (steps_.empty() || steps_[steps_.size() - 1] != next) {
      auto known = std::find(steps_.begin(), steps_.end(), next);
      item.at_step = static_cast<uint32_t>(known - steps_.begin());
      if (known == steps_.end()) steps_.push_back(next);
    } else {
      item.at_step = static_cast<uint32_t>(steps_.size() - 1);
    }
  }
  return steps_;
}

void Batch::divide() {
  chunks_.clear();
  const auto n = static_cast<uint32_t>(items_.size());
  for (uint32_t i = 0; i < n;) {
    const int64_t numel = items_[i].whole.n;
    if (numel > kChunk) {
      for (int64_t begin = 0; begin < numel; begin += kChunk)
        chunks_.push_back({i, i + 1, begin, std::min(begin + kChunk, numel)});
      ++i;
      continue;
    }
    const uint32_t first = i;
    int64_t sum = numel;
    for (++i; i < n && sum + items_[i].whole.n <= kChunk; ++i) sum += items_[i].whole.n;
    chunks_.push_back({first, i, 0, numel});
  }
}

template <class Run> void Batch::for_all_chunks(int workers, Run run) {
  struct Context {
    const std::vector<Chunk> &chunks;
    Run &run;
    std::atomic<size_t> next{0};
  } context{chunks_, run};
  const bool serial = numel_ < serial_below;
  const int64_t most =
      std::min<int64_t>(std::max<int64_t>(1, numel_ / kPerWorker), static_cast<int64_t>(chunks_.size()));
  in_parallel(
      serial ? 1 : static_cast<int>(std::min<int64_t>(workers, std::max<int64_t>(1, most))),
      [](void *pointer) {
        auto *context = static_cast<Context *>(pointer);
        FlushSubnormals flush;
        for (size_t i; (i = context->next.fetch_add(1, std::memory_order_relaxed)) < context->chunks.size();)
          context->run(i, context->chunks[i]);
      },
      &context);
}

template <class Run> void Batch::for_all_spans(int workers, Run run) {
  for_all_chunks(workers, [&](size_t, const Chunk &chunk) {
    for (uint32_t i = chunk.first; i < chunk.last; ++i) {
      const Item &item = items_[i];
      if (item.whole.n == 0) continue;
      const bool one = chunk.last - chunk.first == 1;
      run(i, item,
          one ? piece_of(item.whole, item.param, item.states, item.rounding, chunk.begin, chunk.end) : item.whole);
    }
  });
}

bool Batch::overlap() const {
  std::vector<std::pair<const char *, const char *>> ranges;
  ranges.reserve(items_.size());
  for (const Item &item : items_) {
    auto *begin = static_cast<const char *>(item.whole.p);
    if (item.whole.n) ranges.emplace_back(begin, begin + item.whole.n * size_of(item.param));
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i].first < ranges[i - 1].second) return true;
  return false;
}

void Batch::run(const std::vector<Numbers> &numbers, int workers) {
  divide();
  if (workers > 1 && numel_ >= serial_below && overlap()) workers = 1;  // one update after the other
  const Kernels &table = kernels();
  for_all_spans(workers, [&](uint32_t, const Item &item, const Span &span) {
    Numbers its = numbers[item.at_step];
    its.grad_factor *= item.factor;
    table.update(item.param, item.states, item.rounding, span, its);
  });
  count();
}

void Batch::count() {
  for (const Item &item : items_) item.step.set(item.step.next());
}

std::vector<Batch::Table> Batch::tables(int64_t chunk, const std::vector<std::string> &entry) const {
  struct Cell {
    const char *name;
    int64_t (*of)(const Item &, const Table &);  // of the tensor, and the table before it is in it
  };
  static const Cell kCells[] = {
      {"numel", [](const Item &item, const Table &) { return item.whole.n; }},
      {"start", [](const Item &, const Table &table) { return table.chunks; }},
      {"row", [](const Item &item, const Table &) { return int64_t{item.at_step}; }},
      {"step", [](const Item &item, const Table &) { return static_cast<int64_t>(item.step.next()); }},
      {"position", [](const Item &item, const Table &) { return int64_t{item.whole.position}; }},
      {"param", [](const Item &item, const Table &) { return address(item.whole.p); }},
      {"grad", [](const Item &item, const Table &) { return address(item.whole.g); }},
      {"m", [](const Item &item, const Table &) { return address(item.whole.m); }},
      {"v", [](const Item &item, const Table &) { return address(item.whole.v); }},
      {"v_max", [](const Item &item, const Table &) { return address(item.whole.v_max); }},
      {"m_scale", [](const Item &item, const Table &) { return address(item.whole.m_scale); }},
      {"v_scale", [](const Item &item, const Table &) { return address(item.whole.v_scale); }},
      {"kept", [](const Item &item, const Table &) { return address(item.whole.kept); }},
  };
  std::vector<const Cell *> cells;
  for (const std::string &name : entry) {
    const auto *cell =
        std::find_if(std::begin(kCells), std::end(kCells), [&](const Cell &c) { return name == c.name; });
    if (cell == std::end(kCells)) throw std::invalid_argument("a tensor has no '" + name + "' for its entry");
    cells.push_back(cell);
  }
  std::vector<Table> tables;
  std::vector<std::vector<int64_t>> starts;
  for (const Item &item : items_) {
    if (item.whole.n == 0) continue;
    size_t i = 0;
    for (; i < tables.size(); ++i) {
      const Table &t = tables[i];
      if (t.device == item.device && t.param == item.param && t.states.m == item.states.m &&
          t.states.v == item.states.v)  // and so the rounding
        break;
    }
    if (i == tables.size()) {
      tables.push_back({item.device, item.param, item.states, item.rounding, 0, 0, {}});
      starts.emplace_back();
    }
    Table &table = tables[i];
    for (const Cell *cell : cells) table.cells.push_back(cell->of(item, table));
    starts[i].push_back(table.chunks);
    ++table.tensors;
    table.chunks += (item.whole.n + chunk - 1) / chunk;
  }
  for (size_t i = 0; i < tables.size(); ++i)
    tables[i].cells.insert(tables[i].cells.end(), starts[i].begin(), starts[i].end());
  return tables;
}

void Batch::fold(double weight, const std::vector<uint32_t> &passes, int workers) {
  divide();
  const Kernels &table = kernels();
  for_all_spans(workers, [&](uint32_t i, const Item &item, const Span &span) {
    const auto step = static_cast<uint32_t>(static_cast<uint64_t>(item.step.next()));
    table.fold(item.param, item.states.m, span, weight * item.factor, step, passes[i]);
  });
}

void Batch::scale(const std::vector<double> &factors) {
  for (size_t i = 0; i < items_.size(); ++i) items_[i].factor = factors[i];
}

std::vector<double> Batch::square_sums(int workers) {
  divide();
  const Kernels &table = kernels();
  std::vector<double> sums(items_.size(), 0.0), parts(chunks_.size(), 0.0);
  for_all_chunks(workers, [&](size_t index, const Chunk &chunk) {
    for (uint32_t i = chunk.first; i < chunk.last; ++i) {
      const Item &item = items_[i];
      const bool one = chunk.last - chunk.first == 1;
      const int64_t begin = one ? chunk.begin : 0, end = one ? chunk.end : item.whole.n;
      const char *g = static_cast<const char *>(item.whole.g) + begin * size_of(item.param);
      (one ? parts[index] : sums[i]) = table.square_sum[item.param](g, end - begin);
    }
  });
  for (size_t index = 0; index < chunks_.size(); ++index) sums[chunks_[index].first] += parts[index];
  return sums;
}

double Batch::square_sum(int workers) {
  double total = 0;
  for (double sum : square_sums(workers)) total += sum;
  return total;
}

}  // namespace adamomentum
