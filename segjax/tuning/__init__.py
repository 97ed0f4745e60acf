"""Searches fields of a configuration with Optuna, which `pip install optuna` brings."""

SYNTAX = "FIELD=float:LOW:HIGH, log:LOW:HIGH, int:LOW:HIGH[:STEP], or different values A,B,C"
