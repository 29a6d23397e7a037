"""Quantized checkpoints of other engines' formats: GPTQ, AWQ and compressed-tensors, written and read.

    save(settings, recipe, folder, "compressed-tensors")     # quantize and write
    opened = scheme_of(config)                               # what a config.json says, or None
    read.File(folder, scheme).pack(name, bias, device)       # one matrix as a module that runs its codes

All of them store w = (q - zero) s in groups of columns, with whole zero points.
"""
