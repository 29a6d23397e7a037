"""Models and simulators of power: what a cap or a clock does, a product's time and joules, a row of
servers on less power than their plates say. Pure but for ``status`` and ``sweep``, which ask the sensors.
"""
