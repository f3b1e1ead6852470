"Is it better? Repeated runs, paired and cross-validated comparisons, records, costs."
