// The Python module adamomentum._native.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "batch.h"
#include "threads.h"

#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)
#ifdef __clang__
#define COMPILER "Clang " NAME(__clang_major__) "." NAME(__clang_minor__) "." NAME(__clang_patchlevel__)
#else
#define COMPILER "GCC " __VERSION__
#endif

namespace nb = nanobind;
using namespace adamomentum;

namespace {

// The numbers as Python has them, added to what is the same for the whole group.
Numbers numbers_of(nb::handle given, double step, Numbers n) {
  auto number = [&](const char *name) { return nb::cast<double>(given.attr(name)); };
  n.m_weight = number("m_weight");
  n.beta2 = number("beta2");
  n.v_weight = number("v_weight");
  n.eps_sum = number("eps_sum");
  n.shrink = number("shrink");
  n.factor = number("factor");
  n.adapt = nb::cast<bool>(given.attr("adapt"));
  n.step = static_cast<uint32_t>(static_cast<uint64_t>(step));  // cut off, as the random bits wrap around
  return n;
}

// In the order of the enums.
const char *const kRoundingNames[kRoundings] = {"nearest", "stochastic", "kahan", "master"};
const char *const kParamNames[kParams] = {"float32", "float64", "float16", "bfloat16"};
const char *const kStateNames[] = {"float32", "float64", "bfloat16", "uint8"};

Rounding rounding_of(const std::string &name) {
  for (int r = 0; r < kRoundings; ++r)
    if (name == kRoundingNames[r]) return static_cast<Rounding>(r);
  throw nb::value_error("rounding must be 'nearest', 'stochastic', 'kahan' or 'master'");
}

PyObject *list_or_null(nb::handle grads) {
  if (grads.is_none()) return nullptr;
  if (!nb::isinstance<nb::list>(grads)) throw nb::type_error("grads must be a list");
  return grads.ptr();
}

}  // namespace

NB_MODULE(_native, m) {
  m.attr("isa") = kernels().isa;
  m.attr("compiler") = COMPILER;
  m.def("connect", [](nb::object capsule) { return connect(capsule.ptr()); }, nb::arg("capsule"));
  m.def("use_torch_threads", &use_torch_threads, nb::arg("address"));
  m.def("thread_source", &thread_source);
  m.def(
      "serial_below",
      [](int64_t elements) {
        std::swap(elements, serial_below);
        return elements;
      },
      nb::arg("elements"));

  nb::class_<Batch>(m, "Batch")
      .def(
          "__init__",
          [](Batch *self, nb::tuple plain_types, const std::string &rounding, std::optional<int32_t> table_device) {
            if (!connected()) throw nb::value_error("connect() must come first");
            new (self)
                Batch(plain_types.ptr(), rounding_of(rounding), table_device.value_or(kCPU), table_device.has_value());
          },
          nb::arg("plain_types"), nb::arg("rounding") = "nearest", nb::arg("table_device") = nb::none())
      .def(
          "gather",
          [](Batch &self, nb::list params, nb::dict state, bool amsgrad, Py_ssize_t position, nb::object grads) {
            nb::list rest;
            if (!self.gather(params.ptr(), state.ptr(), amsgrad, &position, rest.ptr(), list_or_null(grads)))
              throw nb::python_error();
            return nb::make_tuple(rest, position);
          },
          nb::arg("params"), nb::arg("state"), nb::arg("amsgrad"), nb::arg("position") = 0,
          nb::arg("grads") = nb::none())
      .def(
          "add",
          [](Batch &self, nb::handle param, nb::handle grad, nb::dict state, bool amsgrad, int64_t first) {
            bool taken = self.add(param.ptr(), grad.ptr(), state.ptr(), amsgrad, first);
            if (PyErr_Occurred()) throw nb::python_error();
            return taken;
          },
          nb::arg("param"), nb::arg("grad"), nb::arg("state"), nb::arg("amsgrad"), nb::arg("first") = 0)
      .def(
          "gather_gradients",
          [](Batch &self, nb::list params, nb::object grads) {
            nb::list rest;
            if (!self.gather_gradients(params.ptr(), rest.ptr(), list_or_null(grads))) throw nb::python_error();
            return rest;
          },
          nb::arg("params"), nb::arg("grads") = nb::none())
      .def(
          "scale",
          [](Batch &self, const std::vector<double> &factors) {
            if (factors.size() != nb::len(nb::borrow<nb::list>(self.params())))
              throw nb::value_error("factors must be one number for each parameter");
            self.scale(factors);
          },
          nb::arg("factors"))
      .def("next_steps", &Batch::next_steps)
      .def(
          "tables",
          [](Batch &self, int64_t chunk, const std::vector<std::string> &entry) {
            nb::list all;
            for (const Batch::Table &t : self.tables(chunk, entry)) {
              nb::bytearray cells(t.cells.data(), t.cells.size() * sizeof(int64_t));
              all.append(nb::make_tuple(t.device, kParamNames[t.param], kStateNames[t.states.m],
                                        kStateNames[t.states.v], kRoundingNames[t.rounding], t.tensors, t.chunks,
                                        cells));
            }
            return all;
          },
          nb::arg("chunk"), nb::arg("entry"))
      .def("count", &Batch::count)
      .def(
          "run",
          [](Batch &self, nb::list given, double grad_factor, double l2, bool lookahead, bool nesterov, double passes,
             double momentum_floor, int threads) {
            const std::vector<double> &steps = self.next_steps();
            if (given.size() != steps.size()) throw nb::value_error("numbers must be one row for each of next_steps()");
            Numbers shared{};
            shared.grad_factor = grad_factor;
            shared.l2 = l2;
            shared.lookahead = lookahead;
            shared.nesterov = nesterov;
            shared.passes = passes;
            shared.momentum_floor = momentum_floor;
            std::vector<Numbers> numbers;
            for (size_t i = 0; i < steps.size(); ++i) numbers.push_back(numbers_of(given[i], steps[i], shared));
            nb::gil_scoped_release release;
            self.run(numbers, threads);
          },
          nb::arg("numbers"), nb::arg("grad_factor"), nb::arg("l2"), nb::arg("lookahead"), nb::arg("nesterov"),
          nb::arg("passes"), nb::arg("momentum_floor"), nb::arg("threads"))
      .def(
          "fold",
          [](Batch &self, double weight, const std::vector<uint32_t> &passes, int threads) {
            if (passes.size() != nb::len(nb::borrow<nb::list>(self.params())))
              throw nb::value_error("passes must be one number for each parameter");
            nb::gil_scoped_release release;
            self.fold(weight, passes, threads);
          },
          nb::arg("weight"), nb::arg("passes"), nb::arg("threads"))
      .def(
          "square_sum",
          [](Batch &self, int threads) {
            nb::gil_scoped_release release;
            return self.square_sum(threads);
          },
          nb::arg("threads"))
      .def(
          "square_sums",
          [](Batch &self, int threads) {
            nb::gil_scoped_release release;
            return self.square_sums(threads);
          },
          nb::arg("threads"))
      .def_prop_ro("has_float64", &Batch::has_float64)
      .def_prop_ro("params", [](Batch &self) { return nb::borrow<nb::list>(self.params()); })
      .def_prop_ro("grads",
                   [](Batch &self) {
                     nb::list all;
                     self.for_all_gradients([&](PyObject *grad) { all.append(nb::handle(grad)); });
                     return all;
                   })
      .def("__len__", [](Batch &self) { return nb::len(nb::borrow<nb::list>(self.params())); });
}
