"Networks by name, what their layers cost, and how to change them."
