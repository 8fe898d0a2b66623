r"""AdaMomentum for Keras 3, on all of its backends.

    m_t = beta_1 m_(t-1) + (1 - beta_1) g_t
    v_t = beta_2 v_(t-1) + (1 - beta_2) m_t^2
    variable -= learning_rate mhat_t / sqrt(v_t / (1 - beta_2^t) + epsilon / (1 - beta_2)),
    mhat_t = m_t / (1 - beta_1^t)

which is Algorithm 1 of arXiv 2106.11514: that adds epsilon to v at every step, where it accumulates. Here it stays out
of the stored moment, where rounding could lose it. What the options change in it is specified in
:mod:`adamomentum.reference`. Importing this module imports keras and the backend that it is set
to; torch only if that is it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

try:
    import keras
    from keras import ops
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"adamomentum.keras needs Keras 3 and one of its backends, {error.name} is not installed: run "
        'pip install "adamomentum[keras]", and the backend of your choice (torch, jax or tensorflow)'
    ) from error

from adamomentum.keras_files import MARK, OTHER_OPTIONS, Layout, recognise, writer_of
from adamomentum.keras_rounding import rounded_by_chance
from adamomentum.reference import momentum_floor
from adamomentum.second_moment import AdjustLR, SecondMoment, adam_ratio, checked_lookahead, white_noise_mean

__all__ = ["AdaMomentum"]


@keras.saving.register_keras_serializable(package="adamomentum")
class AdaMomentum(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Adam whose second moment averages the square of the momentum, not of the gradient (arXiv 2106.11514).

    To come from ``keras.optimizers.AdamW``, keep its learning rate, schedule and ``weight_decay`` (None by default
    here, 0.004 there) and add ``adjust_lr="match_rms_adamw"``: steps then are as long as AdamW's in noise.

    Without ``adjust_lr`` it is Algorithm 1 as printed, whose steps in noise are 4.36 times as long at the default
    betas and whose first step is ten times the learning rate: ``adamomentum.theory.guidance.suggest_lr`` says what to
    divide AdamW's by, and it wants a warm-up over 50 to 100 steps, as with
    ``keras.optimizers.schedules.CosineDecay(warmup_steps=...)``.

    Moments of variables in half precision are kept in float32, and the maths is done there.

    Args:
        learning_rate: a float, a ``keras.optimizers.schedules.LearningRateSchedule``, or a function without arguments
            that returns it.
        *positional: none; what follows is given by name, as Keras's AdamW and Adam differ in what comes second.
        beta_1: decay rate of the first moment, in [0, 1).
        beta_2: decay rate of the second moment, in [0, 1).
        epsilon: added to the second moment at every step, in units of the gradient squared, where it accumulates: the
            denominator is at least sqrt(epsilon / (1 - beta_2)), 3e-7 by default. Not Adam's: keep the default. With 0
            a coordinate becomes NaN when its first gradient is 0.
        amsgrad: divide by the largest second moment so far, epsilon included, instead of the current one.
        weight_decay: variables shrink by ``learning_rate * weight_decay`` a step, all but those given to
            ``exclude_from_weight_decay``.
        adjust_lr: "match_rms_adamw" divides the second moment by its mean in white noise instead of by 1 - beta_2^t, so
            that steps are as long as AdamW's at the same ``learning_rate``; the first one is ``learning_rate`` in each
            coordinate. None: Algorithm 1.
        second_moment: what the second moment averages the square of: "momentum", or "lookahead" for
            beta_1 m + (1 - beta_1) g. None is "lookahead" with ``adjust_lr`` or ``nesterov``, else "momentum".
        nesterov: move by the look-ahead momentum over 1 - beta_1^(t+1) instead of by the momentum over 1 - beta_1^t.
        full_bias_correction: average the square of m / (1 - beta_1^t) instead of that of m: the first step is then
            ``learning_rate``, not ``learning_rate`` / (1 - beta_1). Not with the three options before.
        rounding: how bfloat16 variables are rounded after a step: "nearest", where they do not move by less than half
            of their spacing, 2^-8 to 2^-9 of them; or "stochastic", up or down with the probability that keeps the
            mean. The random bits are a function of the element's place and the step count alone.
        clipnorm: the norm of each gradient is clipped to it.
        clipvalue: each element of each gradient is clipped to it.
        global_clipnorm: the norm of all gradients together is clipped to it.
        use_ema: keep an exponential moving average of the variables.
        ema_momentum: its decay rate.
        ema_overwrite_frequency: steps after which the variables are overwritten by it; None: at the end of ``fit``.
        loss_scale_factor: the loss is multiplied by it, and the gradients divided.
        gradient_accumulation_steps: K, batches a step, whose gradients are averaged. They are added up in the first
            moment, without Keras's accumulators, which are as large as the variables. A second moment of the look-ahead
            momentum, as with ``adjust_lr``, then takes the last batch's gradient for the mean, and corrects for its
            larger noise. Clipping, ``nesterov`` and ``beta_1=0`` need the mean itself: with them Keras's accumulators
            are made.
        name: of the optimizer.
        **kwargs: what the base class takes.

    Raises:
        TypeError: if a number is none, a number of batches no integer, a switch no bool, or an argument after
            ``learning_rate`` has no name.
        ValueError: if an argument is out of range, or does not go with ``full_bias_correction``.
    """

    gradient_accumulation_steps: int | None

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], Any] = 0.001,
        *positional: Any,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-16,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        adjust_lr: AdjustLR | None = None,
        second_moment: SecondMoment | None = None,
        nesterov: bool = False,
        full_bias_correction: bool = False,
        rounding: Literal["nearest", "stochastic"] = "nearest",
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if positional:
            raise TypeError(
                f"arguments after learning_rate must be given by name, got {positional[0]!r}: second is "
                "weight_decay in Keras's AdamW, beta_1 in its Adam"
            )
        beta_1 = _checked("beta_1", beta_1, below_one=True)
        beta_2 = _checked("beta_2", beta_2, below_one=True)
        epsilon = _checked("epsilon", epsilon)
        lookahead = checked_lookahead(adjust_lr, second_moment, nesterov, full_bias_correction)
        if rounding not in ("nearest", "stochastic"):
            raise ValueError(f"rounding must be 'nearest' or 'stochastic', got {rounding!r}")
        if weight_decay is not None:
            weight_decay = _checked("weight_decay", weight_decay)
        if isinstance(learning_rate, Real):
            learning_rate = _checked("learning_rate", learning_rate)
        if gradient_accumulation_steps is not None:
            if isinstance(gradient_accumulation_steps, bool) or not isinstance(gradient_accumulation_steps, Integral):
                raise TypeError(
                    f"gradient_accumulation_steps must be an integer, got {gradient_accumulation_steps!r}: the number "
                    "of batches a step, >= 2; None for a step each batch"
                )
            gradient_accumulation_steps = int(gradient_accumulation_steps)
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self.beta_1, self.beta_2, self.epsilon, self.amsgrad = beta_1, beta_2, epsilon, amsgrad
        self.adjust_lr, self.second_moment, self.nesterov = adjust_lr, second_moment, nesterov
        self.full_bias_correction, self.rounding = full_bias_correction, rounding
        self._lookahead = lookahead
        self._undecayed_names: tuple[str, ...] = ()
        self._undecayed_keys: tuple[Any, ...] = ()
        # What was loaded, until build sees the variables: whether each was excluded by var_list.
        self._undecayed_mask: tuple[bool, ...] = ()
        self._accumulates_in_momentum = bool(gradient_accumulation_steps) and not self._mean_is_needed_for()

    def _mean_is_needed_for(self) -> str:
        """Return the option that needs the mean of several batches' gradients by itself; empty without one."""
        for name in ("clipnorm", "clipvalue", "global_clipnorm", "nesterov"):
            if getattr(self, name):
                return f"{name}={getattr(self, name)}"
        return "" if self.beta_1 else "beta_1=0"

    def build(self, variables: Sequence[Any]) -> None:
        """Make the moments.

        Args:
            variables: of the model, to be trained.

        Raises:
            ValueError: if one is complex, or if they are not as many as ``var_list`` was saved for.
        """
        if self.built:
            return
        for variable in variables:
            if str(variable.dtype).startswith("complex"):
                raise ValueError(
                    f"variables must be real, got {variable.path} in {variable.dtype}; train its real and its "
                    "imaginary part as two variables"
                )
        mask, updated = self._undecayed_mask, self._updated(variables)
        if mask and len(mask) != len(updated):
            raise ValueError(
                f"variables must be the {len(mask)} that the optimizer was saved with, some of which var_list excluded "
                f"from weight decay, got {len(updated)}"
            )
        if self._accumulates_in_momentum:
            self._build_without_accumulators(variables)
        else:
            super().build(variables)
        if mask:
            self.exclude_from_weight_decay(compress(updated, mask), self._undecayed_names)
        # In the order of Keras's Adam, whose files are read by place.
        self._momentums, self._velocities = self._moments(variables, "momentum", "velocity")
        if self.amsgrad:
            (self._largest_velocities,) = self._moments(variables, "largest_velocity")

    def _build_without_accumulators(self, variables: Sequence[Any]) -> None:
        steps = self.gradient_accumulation_steps
        self.gradient_accumulation_steps = None
        try:
            super().build(variables)
        finally:
            self.gradient_accumulation_steps = steps
        # But for the scales of float8, of which Keras keeps the largest.
        self._accumulated_gradients: list[Any] = [
            self.add_variable_from_reference(variable, name="gradient_accumulator")
            if self._overwrite_variable_with_gradient(variable)
            else None
            for variable in variables
        ]

    def _updated(self, variables: Sequence[Any]) -> list[Any]:
        """Return all but the scales of float8: their gradient overwrites them, and loading puts them elsewhere."""
        return [variable for variable in variables if not self._overwrite_variable_with_gradient(variable)]

    def _moments(self, variables: Sequence[Any], *names: str) -> list[list[Any]]:
        """Return a list a name; the moments of one variable are made after each other."""
        lists: list[list[Any]] = [[] for _ in names]
        for variable in variables:
            for name, moments in zip(names, lists, strict=True):
                moments.append(
                    None if self._overwrite_variable_with_gradient(variable) else self._moment(variable, name)
                )
        return lists

    def _moment(self, variable: Any, name: str) -> Any:
        return self.add_variable(
            shape=variable.shape,
            dtype="float32" if variable.dtype in ("bfloat16", "float16") else variable.dtype,
            layout=getattr(variable, "_layout", None),
            name=f"{variable.path.replace('/', '_')}_{name}",
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable.

        Args:
            gradient: of the loss, shaped like ``variable``; dense, or sparse as the backend's embeddings make it.
            variable: of the model.
            learning_rate: of this step.
        """
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        t = ops.cast(self.iterations + 1, m.dtype)
        c1, c2 = _one_minus_power(self.beta_1, t), _one_minus_power(self.beta_2, t)
        mean = c2
        if self.adjust_lr:
            mean = white_noise_mean(
                t, self.beta_1, self.beta_2, c2, array=ops, lookahead=self._lookahead, passes=self._passes
            )
        gradient = ops.multiply(ops.cast(gradient, m.dtype), 1 - self.beta_1)
        # Not by ops.add, which on tensorflow takes what is shaped like a bias for one.
        gradient = ops.convert_to_tensor(gradient, sparse=False)
        # In the look-ahead momentum the last of several batches' gradients stands for their mean.
        own = gradient if self._passes == 1 else ops.multiply(gradient, 1 / self._passes)
        self.assign(m, self.beta_1 * m + own)
        ahead = self.beta_1 * m + gradient if self._lookahead or self.nesterov else m
        averaged = ahead if self._lookahead else m / c1 if self.full_bias_correction else m
        square = ops.square(averaged)
        if floor := momentum_floor(self._passes, lookahead=self._lookahead):
            least = ops.square(floor * m)
            square = ops.where(least > square, least, square)
        self.assign(v, self.beta_2 * v + (1 - self.beta_2) * square)
        eps_sum = self.epsilon / (1 - self.beta_2) * c2
        if self.amsgrad:
            largest = self._largest_velocities[index]
            # As tensors, and not by ops.maximum, which on the torch backend rounds float64 to float32.
            before, now = ops.convert_to_tensor(largest), v + eps_sum
            self.assign(largest, ops.where(before >= now, before, now))
            v_hat = largest / mean
        else:
            v_hat = v / mean + eps_sum / mean
        moves, c1 = (ahead, _one_minus_power(self.beta_1, t + 1)) if self.nesterov else (m, c1)
        learning_rate = ops.cast(learning_rate, m.dtype)
        step = learning_rate * moves / (c1 * ops.sqrt(v_hat))
        if not self._rounds_by_chance(variable):
            self.assign(variable, ops.cast(ops.cast(variable, m.dtype) - step, variable.dtype))
            return
        before = ops.cast(variable, m.dtype)
        if self._decays(variable):
            before = before * (1 - self.weight_decay * learning_rate)
        self.assign(variable, rounded_by_chance(before - step, self.iterations + 1))

    def _rounds_by_chance(self, variable: Any) -> bool:
        """Whether a variable is updated in float32, decay and all, and then rounded up or down by chance."""
        return self.rounding == "stochastic" and variable.dtype == "bfloat16"

    def _decays(self, variable: Any) -> bool:
        return self.weight_decay is not None and self._use_weight_decay(variable)

    @property
    def _passes(self) -> int:
        """Batches a step whose gradients are added up in the first moment."""
        return (self.gradient_accumulation_steps or 1) if self._accumulates_in_momentum else 1

    def _backend_apply_gradients(self, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
        if not self._accumulates_in_momentum:
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        if option := self._mean_is_needed_for():
            raise ValueError(
                f"{option} was set after the optimizer was made, and needs the mean of "
                f"{self.gradient_accumulation_steps} batches' gradients, which are nowhere but in the first moments; "
                "give it to AdaMomentum when you make it, which then has Keras's accumulators"
            )

        def update() -> None:
            self._apply_weight_decay(trainable_variables)
            self._backend_update_step(grads, trainable_variables, self.learning_rate)

        def accumulate() -> None:
            self._accumulate(grads, trainable_variables)

        self._cond((self._iterations + 1) % self.gradient_accumulation_steps == 0, update, accumulate)
        if not self.use_ema:
            return
        self._update_model_variables_moving_average(self._trainable_variables)
        if self.ema_overwrite_frequency:
            self._cond(
                (self.iterations + 1) % self.ema_overwrite_frequency == 0,
                lambda: self._overwrite_model_variables_with_average_value(self._trainable_variables),
                lambda: None,
            )

    def _accumulate(self, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
        """Put a batch's gradients into the first moments, where the update will multiply them by beta_1."""
        momentums = [self._momentums[self._get_variable_index(variable)] for variable in trainable_variables]
        weight = (1 - self.beta_1) / self.beta_1 / self._passes
        if _in_place():
            from adamomentum.keras_foreach import foreach_add

            foreach_add([m.value for m in momentums], grads, weight)
            return
        weighted = [
            ops.convert_to_tensor(ops.multiply(ops.cast(g, m.dtype), weight), sparse=False)
            for g, m in zip(grads, momentums, strict=True)
        ]
        super()._backend_increment_gradient_accumulators(weighted, momentums)

    def _cond(self, which: Any, if_true: Callable[[], None], if_false: Callable[[], None]) -> None:
        """Call one of two functions that change variables; ``jax.lax.cond`` wants these as values."""
        if keras.backend.backend() != "jax":
            ops.cond(which, if_true, if_false)
            return
        import jax

        if not isinstance(which, jax.core.Tracer):
            (if_true if which else if_false)()
            return
        variables = [*self._trainable_variables, *self.variables]

        def of_values(change: Callable[[], None]) -> Callable[[list[Any]], list[Any]]:
            def changed(values: list[Any]) -> list[Any]:
                with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
                    change()
                return [scope.get_current_value(variable) for variable in variables]

            return changed

        values = jax.lax.cond(which, of_values(if_true), of_values(if_false), [v.value for v in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        if not _in_place():
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        from adamomentum.keras_foreach import foreach_step

        places = [self._get_variable_index(variable) for variable in trainable_variables]
        decays = {
            i: self.weight_decay if self._decays(variable) else 0.0
            for i, variable in enumerate(trainable_variables)
            if self._rounds_by_chance(variable)
        }
        foreach_step(
            [variable.value for variable in trainable_variables],
            grads,
            [self._momentums[i].value for i in places],
            [self._velocities[i].value for i in places],
            [self._largest_velocities[i].value for i in places] if self.amsgrad else None,
            iterations=ops.convert_to_tensor(self.iterations),
            learning_rate=ops.convert_to_tensor(learning_rate),
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            adjust_lr=self.adjust_lr is not None,
            lookahead=self._lookahead,
            nesterov=self.nesterov,
            full_bias_correction=self.full_bias_correction,
            passes=self._passes,
            rounded_by_chance=decays,
        )

    def _backend_increment_gradient_accumulators(self, grads: Sequence[Any], acc_grads: Sequence[Any]) -> None:
        if not _in_place():
            super()._backend_increment_gradient_accumulators(grads, acc_grads)
            return
        from adamomentum.keras_foreach import foreach_add

        foreach_add([accumulator.value for accumulator in acc_grads], grads)

    def _backend_reset_gradient_accumulators(self) -> None:
        if not _in_place():
            super()._backend_reset_gradient_accumulators()
            return
        from adamomentum.keras_foreach import foreach_zero

        foreach_zero([accumulator.value for accumulator in self._accumulated_gradients])

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        # What is rounded by chance decays in its update: the decay by itself would be less than rounding takes.
        variables = [variable for variable in variables if not self._rounds_by_chance(variable)]
        # On the torch backend Keras fails where there are none.
        if keras.backend.backend() != "torch" or any(map(self._use_weight_decay, variables)):
            super()._apply_weight_decay(variables)

    def exclude_from_weight_decay(
        self, var_list: Iterable[Any] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Exclude variables from weight decay, before the first step.

        Keras's own optimizers forget it when they are saved, and decay all once loaded; this one remembers.

        Args:
            var_list: variables to exclude.
            var_names: strings, each a regular expression; variables in whose name one is found are excluded.

        Raises:
            TypeError: if ``var_names`` is one string, which would be taken for its letters.
        """
        if isinstance(var_names, str):
            raise TypeError(f"var_names must be a list of strings, got {var_names!r}")
        variables, names = tuple(var_list or ()), tuple(var_names or ())
        super().exclude_from_weight_decay(variables, names)
        self._undecayed_names = names
        self._undecayed_keys = tuple(self._var_key(variable) for variable in variables)
        self._undecayed_mask = ()

    def _overwrite_model_variables_with_average_value(self, trainable_variables: Sequence[Any]) -> None:
        super()._overwrite_model_variables_with_average_value(trainable_variables)
        if keras.backend.backend() == "jax":
            # There each variable and its average are one array now, which the next step would donate twice.
            for average in self._model_variables_moving_average:
                if average is not None:
                    average.assign(ops.copy(average))

    def save_own_variables(self, store: Any) -> None:
        """Write the state, and a mark that tells it from Adam's.

        Args:
            store: what Keras makes to hold arrays by name.
        """
        super().save_own_variables(store)
        store[MARK] = self._layout().mark

    def load_own_variables(self, store: Any) -> None:
        """Read the state: AdaMomentum's, or that of ``keras.optimizers.Adam`` or ``AdamW`` with the same options.

        Adam's steps and first moments are taken as they are, its second moments times the ratio of the two in white
        noise at equal betas and as many steps. The learning rate stays this optimizer's.

        Args:
            store: what ``save_own_variables`` of the one or the other filled.

        Raises:
            ValueError: if it is that of another optimizer, or does not fit; nothing is changed then. If it has another
                number of variables, as when this optimizer is not built, Keras warns and nothing is loaded.
        """
        keys, variables = set(store.keys()), self.variables
        saved = {key: store[key] for key in keys - {MARK}}
        accumulators = self._accumulators_of_file(len(saved) - len(variables)) if self.built else []
        accumulated = [np.asarray(saved.pop(str(i))) for i in accumulators]
        if accumulated:
            saved = {str(i): saved[key] for i, key in enumerate(sorted(saved, key=int))}
        if self.built and len(saved) == len(variables):
            own = {name.lower() for name, entry in vars(keras.optimizers).items() if isinstance(entry, type)}
            layout, mark = self._layout(), store[MARK] if MARK in keys else None
            arrays = [np.asarray(saved[str(i)]) for i in range(len(variables))]
            family, arrays = recognise(arrays, writer_of(store, {*own, "adamomentum"}), mark, layout)
            if self._accumulates_in_momentum and mark is None and not accumulated:
                raise ValueError(f"the optimizer's state does not fit: it was {OTHER_OPTIONS}")
            if family == "adam":
                arrays = self._from_adam(arrays, layout)
            weight = (1 - self.beta_1) / self.beta_1 / self._passes if accumulated else 0.0
            for i, gradients in enumerate(accumulated):
                m = arrays[layout.start + 2 * i]
                arrays[layout.start + 2 * i] = m + weight * gradients.astype(m.dtype)
            saved = {str(i): array for i, array in enumerate(arrays)}
        super().load_own_variables(saved)

    def _accumulators_of_file(self, surplus: int) -> list[int]:
        """Return the places of Keras's accumulators in a file of ``surplus`` more variables than this optimizer has.

        Adam's files have them, and those of AdaMomentum from before it accumulated in the first moment.
        """
        updated = self._updated(self._trainable_variables)
        if not self._accumulates_in_momentum or surplus != len(updated):
            return []
        schedule = all(variable is not self._learning_rate for variable in self.variables)
        first = 1 + (not schedule) + self.use_ema * len(updated)
        return [
            first + i
            for i, variable in enumerate(self._trainable_variables)
            if not self._overwrite_variable_with_gradient(variable)
        ]

    def _layout(self) -> Layout:
        variables = self.variables
        return Layout(
            [tuple(variable.shape) for variable in variables],
            [variable.path for variable in variables],
            moments=len(self._updated(self._trainable_variables)),
            amsgrad=self.amsgrad,
            use_ema=self.use_ema,
            passes=self.gradient_accumulation_steps or 0,
            schedule=all(variable is not self._learning_rate for variable in variables),
        )

    def _from_adam(self, arrays: list[Any], layout: Layout) -> list[Any]:
        """Return Adam's state as AdaMomentum's, whose second moment goes on without a jump in white noise."""
        steps = int(arrays[0]) // (self.gradient_accumulation_steps or 1)
        # Before the first step the moments are 0. Under full bias correction the ratio is that of many steps.
        t = math.inf if self.full_bias_correction else max(steps, 1)
        ratio = adam_ratio(t, self.beta_1, self.beta_2, lookahead=self._lookahead)
        accumulated = self.epsilon / (1 - self.beta_2) * (1 - self.beta_2**steps)
        converted = []
        for i, (array, variable) in enumerate(zip(arrays, self.variables, strict=True)):
            if variable is self._learning_rate:
                array = variable.numpy()
            elif i in layout.second:
                largest = i >= layout.start + 2 * layout.moments
                array = ratio * array.astype(variable.dtype) + largest * accumulated
            converted.append(array)
        return converted

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` makes this optimizer from again: its arguments, and what does not decay.

        Raises:
            ValueError: if variables were excluded from weight decay before the optimizer was built: they are saved, as
                the moments are, by their place among the variables that it is built with.
        """
        if self._undecayed_keys and not self.built:
            raise ValueError(
                "an optimizer with var_list excluded from weight decay must be built before it is saved: call "
                "optimizer.build(model.trainable_variables)"
            )
        own = {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "amsgrad": self.amsgrad,
            "adjust_lr": self.adjust_lr,
            "second_moment": self.second_moment,
            "nesterov": self.nesterov,
            "full_bias_correction": self.full_bias_correction,
            "rounding": self.rounding,
        }
        config: dict[str, Any] = {**super().get_config(), **own}
        if self._undecayed_names:
            config["undecayed_names"] = list(self._undecayed_names)
        updated = self._updated(self._trainable_variables)
        mask = self._undecayed_mask or [self._var_key(variable) in self._undecayed_keys for variable in updated]
        if any(mask):
            config["undecayed_variables"] = list(mask)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> AdaMomentum:
        """Make an optimizer from what ``get_config`` returned.

        Args:
            config: what it returned.
            custom_objects: classes and functions that Keras does not know, by name.
        """
        config = dict(config)
        names, mask = config.pop("undecayed_names", None), config.pop("undecayed_variables", ())
        optimizer: AdaMomentum = super().from_config(config, custom_objects)
        if names:
            optimizer.exclude_from_weight_decay(var_names=names)
        optimizer._undecayed_mask = tuple(mask)
        return optimizer


# For compile("adamomentum"), as for the names of Keras's own optimizers.
keras.saving.get_custom_objects().update(adamomentum=AdaMomentum, AdaMomentum=AdaMomentum)


def _in_place() -> bool:
    """Return whether variables are torch's, all changed by one pass; in a stateless scope nothing may be changed."""
    return keras.backend.backend() == "torch" and not keras.src.backend.in_stateless_scope()


def _checked(name: str, value: Any, *, below_one: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's scalars too
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= float(value) < (1 if below_one else math.inf):
        raise ValueError(f"{name} must be {'in [0, 1)' if below_one else '>= 0 and finite'}, got {value}")
    return float(value)


def _one_minus_power(beta: float, t: Any) -> Any:
    """Return 1 - beta^t, also where beta^t is so near 1 that float32 would lose it."""
    return -ops.expm1(t * math.log(beta)) if beta else ops.ones_like(t)
