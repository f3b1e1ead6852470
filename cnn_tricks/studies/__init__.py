"Questions that take many runs: the audit of tricks on one's own images, the table of all records."
