"""The gated activation between an MLP's matrices: silu(gate) * up."""
