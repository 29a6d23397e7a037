"""Products with matrices that are mostly zero: a bit per place, and the numbers that are not zero."""
