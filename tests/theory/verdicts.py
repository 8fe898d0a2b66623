"""What the experiments of `adamomentum theory` conclude, by experiment and claim: what the documentation says."""

VERDICTS = {
    "algorithm": {"algorithm-1": "confirmed"},
    "frequency": {"frequency": "confirmed"},
    "sandwich": {"sandwich": "confirmed", "larger-second-moment": "refuted"},
    "noise": {"signal-to-noise": "confirmed", "noise-floor": "confirmed", "assumption-5": "refuted"},
    "startup": {"start-up": "confirmed", "largest-update": "confirmed", "outlier": "confirmed"},
    "floor": {"eps-floor": "confirmed", "stable-lr": "confirmed"},
    "drop_in": {
        "drop-in-unbiased": "confirmed",
        "drop-in-length": "confirmed",
        "drop-in-first-step": "confirmed",
        "drop-in-alternating": "confirmed",
        "drop-in-signal": "confirmed",
    },
    "regret": {
        "theorem-4": "confirmed with corrections",
        "corollary-2": "confirmed with corrections",
        "constant-beta1": "confirmed",
    },
    "counterexample": {"counterexample": "confirmed with corrections"},
    "stationarity": {"stationarity": "confirmed with corrections", "stationarity-defaults": "refuted"},
    "drop_in_bounds": {"drop-in-regret": "confirmed", "drop-in-stationarity": "confirmed"},
    "exits": {"frozen-exit": "confirmed with corrections", "proposition-1": "refuted"},
    "selectivity": {"selectivity": "confirmed"},
    "trapping": {"trapping": "not confirmed"},
    "network": {"network-noise": "confirmed"},
}
# What `--full` adds.
FULL = {"network-flatness": "refuted"}
