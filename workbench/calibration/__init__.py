"""Calibration: what a model's layers see on real text, gathered layer by layer, and what follows from it.

``walk`` reads one decoder layer of a checkpoint at a time, runs the calibration text through it and
hands statistics of every linear layer's input to a consumer (GPTQ, activation-aware scaling, ...).
``grids`` and ``gptq`` are the pure algorithms; ``text`` chooses the samples.
"""
