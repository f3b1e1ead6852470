"What everything else stands on: registries, checked fields, the machine, tables, paths."
